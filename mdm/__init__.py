r"""The diffusion prior: schedules, denoisers, samplers, and the stage that trains it."""

__all__ = [
    "DDIM",
    "MDM",
    "Ancestral",
    "ChainSampler",
    "CosineSchedule",
    "DPMSolver",
    "Denoiser",
    "DiffusersDenoiser",
    "FlowSchedule",
    "Generation",
    "Result",
    "SampleWriter",
    "Sampler",
    "Schedule",
    "Step",
    "Transition",
    "VPSchedule",
    "chain",
    "load_denoiser",
]

from .denoiser import Denoiser, DiffusersDenoiser, load_denoiser
from .generation import Generation
from .module import MDM
from .sampler import ChainSampler, DPMSolver, Result, Sampler, chain
from .schedule import CosineSchedule, FlowSchedule, Schedule, VPSchedule
from .transition import DDIM, Ancestral, Step, Transition
from .writer import SampleWriter
