r"""The diffusion prior: schedules, denoisers, samplers, and the stage that trains it."""

__all__ = [
    "DDIM",
    "MDM",
    "MLP",
    "Ancestral",
    "ChainSampler",
    "CosineSchedule",
    "DPMSolver",
    "Denoiser",
    "DiffusersDenoiser",
    "FlowSchedule",
    "GaussianDenoiser",
    "Generation",
    "Level",
    "MixtureDenoiser",
    "Result",
    "SampleWriter",
    "Sampler",
    "Schedule",
    "Step",
    "Transition",
    "VPSchedule",
    "chain",
    "descend",
    "load_denoiser",
]

from .denoiser import Denoiser, DiffusersDenoiser, load_denoiser
from .exact import GaussianDenoiser, MixtureDenoiser
from .generation import Generation
from .mlp import MLP
from .module import MDM
from .sampler import ChainSampler, DPMSolver, Level, Result, Sampler, chain, descend
from .schedule import CosineSchedule, FlowSchedule, Schedule, VPSchedule
from .transition import DDIM, Ancestral, Step, Transition
from .writer import SampleWriter
