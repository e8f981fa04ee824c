r"""The verbs that train and use a model: `fit`, `validate`, `test` and `predict`.

Lightning's command line, with the needs of a run that is to be trusted: a run folder that
is checked before anything starts and never overwritten, checkpoints that are written in one piece
and loaded as plain data, one seed, and errors in a sentence. No stage is imported by name: a class
path in a configuration says which one runs.
"""

__all__ = ["main", "parse"]

import os
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from shlex import join
from typing import Any

import torch
import yaml
from jsonargparse.typing import restricted_number_type
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import distributed

from constraints import InputError, check_range, show_progress

from .. import EMA, Flops, Provenance, Stage
from ..training.checkpoint import build_part
from ..training.io import (
    AtomicCheckpointIO,
    KeepLast,
    last_checkpoint,
    numbered,
    run_folder,
    step,
)
from ..training.recipes import check_classes, modules_of
from ..training.trust import trusting
from .configs import expand
from .constructing import constructing
from .errors import CommandError, Interrupted
from .exchange import kept_arguments
from .explain import explain
from .fill import fill
from .folder import SaveConfig, working
from .parser import REPLACE, TRUST
from .plugins import load_plugins
from .progress import LineProgress
from .quiet import quiet
from .reader import refuse

SEED = restricted_number_type("Seed", int, [(">=", 0), ("<=", 2**32 - 1)])
# numbers that Lightning takes as they are, and that break a training later
RANGES = {
    "accumulate_grad_batches": "[1, inf)",
    "log_every_n_steps": "[0, inf)",
    "val_check_interval": "(0, inf)",
}
UNDEFINED = LightningModule.predict_step


class ConfigParser(LightningArgumentParser):
    r"""Creates a parser that raises its errors, and takes no option by its beginning alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The parser of a nested class is made like the one around it, with its settings given.
        kwargs.setdefault("exit_on_error", False)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)


class CLI(LightningCLI):
    r"""Creates, parses and runs the command in `sys.argv`.

    Arguments:
        context: The context of the run, in which the modules of the user are trusted.
    """

    def __init__(self, context: ExitStack) -> None:
        self.context = context
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_class=ConfigParser,
            parser_kwargs={"prog": "namm"},
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                # The forward map and guidance take gradients outside of training.
                "inference_mode": False,
                # The order of a batch is keyed, and the same for every number of processes.
                "use_distributed_sampler": False,
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = LightningCLI.subcommands()
        skipped["predict"].add("return_predictions")  # a command returns nothing
        return skipped

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=SEED,
            default=0,
            help="The seed of everything, the model included: at most 4294967295.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Flops, "flops")
        parser.add_lightning_class_args(KeepLast, "checkpoint")
        parser.add_argument(
            "--force",
            action="store_true",
            help="Go on with a checkpoint of another problem, and name the ignored values.",
        )
        parser.add_argument("--trust", **TRUST)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("test", "predict"):
            parser.add_argument("--replace", action="store_true", help=REPLACE)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        verb, *argv = sys.argv[1:]
        try:
            self.config = parser.parse_args([verb, *expand(argv)])
        except ArgumentError as error:
            mistake = explain(error, verb, self._subcommand_parsers[verb], argv)
            raise CommandError(mistake) from error
        for sentence in kept_arguments(argv, self.config[verb].as_dict()):
            print(f"namm: note: {sentence}", file=sys.stderr)

    def _parse_ckpt_path(self) -> None:
        r"""Does nothing, where Lightning overwrites what the user says with what the checkpoint
        says."""

    def before_instantiate_classes(self) -> None:
        self.trainer_defaults["callbacks"] = [Provenance(self._get(self.config, "force"))]
        # Not with `link_arguments`: it overrides in silence what is given for the model, and
        # jsonargparse cannot then parse a part that a function makes.
        config, key = self.config[self.subcommand], "model.init_args.seed"
        if config.get("weights_only") is False:
            refuse("weights_only", "a file is data, whose code is never run: leave it out")
        check_classes(config)
        named = modules_of([config.model, config.data])
        self.context.enter_context(trusting({*config.trust, *named}))
        seed = int(config.seed_everything)
        if config.get(key, 0) not in (0, seed):
            raise CommandError(
                f"{key} is {config[key]}: give the seed as --seed_everything alone."
            )
        if key in config:
            config[key] = seed
        for name, interval in RANGES.items():
            if isinstance(value := config.trainer[name], int | float):
                check_range(Trainer, interval, **{name: value})
        if config.data is not None:
            with constructing():
                fill(config.model, lambda: build_part(config.data.clone(), LightningDataModule))

    def instantiate_classes(self) -> None:
        with constructing():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        plugins, callbacks = (
            value if isinstance(value, list) else [value] if value else []
            for value in (config["plugins"], config["callbacks"])
        )
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, AtomicCheckpointIO()]
        chosen = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if config["enable_progress_bar"] is not False and not chosen and not sys.stdout.isatty():
            self.trainer_defaults["callbacks"].append(LineProgress())
        return super().instantiate_trainer(plugins=plugins, **kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        given = kwargs["ckpt_path"]
        if given == "best":
            raise InputError("Only the last checkpoint is kept: --ckpt_path last, or a file.")
        if given == "last":
            given = kwargs["ckpt_path"] = last_checkpoint(self.trainer)
            if given is None and (subcommand != "fit" or numbered(self.trainer)):
                raise InputError(
                    f"There is no last checkpoint in {run_folder(self.trainer)}: give a file with "
                    "--ckpt_path, or the folder of a run with --trainer.logger.version."
                )
        trained = subcommand == "test" and isinstance(self.model, Stage)
        if given is None and (trained or subcommand in ("validate", "predict")):
            raise InputError(f"`namm {subcommand}` needs trained weights: give --ckpt_path.")
        if given is not None and not Path(given).is_file():
            raise InputError(f"There is no checkpoint {given}: give another --ckpt_path.")
        if subcommand == "predict" and type(self.model).predict_step is UNDEFINED:
            raise InputError(f"{type(self.model).__name__} draws no samples: predict with a MDM.")
        return kwargs | ({"return_predictions": False} if subcommand == "predict" else {})

    def _run_subcommand(self, subcommand: str) -> None:
        given, replace = (self._get(self.config, key) for key in ("ckpt_path", "replace"))
        shown = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        try:
            with (
                show_progress(shown),
                working(self.trainer, self.model, subcommand, given, replace),
            ):
                super()._run_subcommand(subcommand)
        except (KeyboardInterrupt, SystemExit) as stop:
            # Lightning answers a KeyboardInterrupt with `sys.exit(1)`.
            terminated = isinstance(stop, SIGTERMException)
            if not terminated and KeyboardInterrupt not in map(type, (stop, stop.__context__)):
                raise
            message, file = f"{subcommand} was stopped.", last_checkpoint(self.trainer)
            if subcommand == "fit" and file is not None:
                last = ["--ckpt_path", str(file) if numbered(self.trainer) else "last"]
                argv = sys.argv[1:] if sys.argv[-2:] == last else [*sys.argv[1:], *last]
                message += f" {file} holds step {step(file)}. To continue:\n  namm {join(argv)}"
            raise Interrupted(message, 143 if terminated else 130) from stop
        except MisconfigurationException as error:  # Lightning's word for a mistake of the user
            raise InputError(str(error)) from error


@contextmanager
def command(argv: Sequence[str]) -> Iterator[None]:
    r"""Makes `argv` the command of this process, which distributed training starts again in
    others, and leaves nothing of that training behind, so that another command can follow."""
    before, environment = sys.argv, dict(os.environ)
    sys.argv = [before[0], *argv]
    try:
        yield
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(environment)
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def main(argv: Sequence[str]) -> None:
    r"""Runs a command.

    Arguments:
        argv: The verb and its options.
    """
    # Subnormal numbers slow the first training steps down tenfold. Set before any other thread is.
    torch.set_flush_denormal(True)
    load_plugins()
    with command(argv), quiet(), ExitStack() as context:
        CLI(context)


def parse(argv: Sequence[str]) -> dict[str, Any]:
    r"""Returns the configuration that a command would run with, and runs nothing.

    Arguments:
        argv: The verb and its options.
    """
    text = StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        main([*argv, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    config.pop("trust", None)  # which changes no result
    config.pop("replace", None)  # no result depends on it
    return config
