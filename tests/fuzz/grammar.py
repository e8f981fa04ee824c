"""The grammar of wrong commands: seeded, and the same for everybody.

A case is a command, and the files that it finds. Most cases are wrong. A case that a user could
mean, such as another number, names the key whose value the run must have taken.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.commands import PROBLEM, TRAINER, edited

CONFIG = "runs/toy/namm/config.yaml"
NAN, INFINITE = ".nan", ".inf"
NUMBERS: list[Any] = [
    -1,
    -4,
    0,
    2.5,
    1e300,
    -1e300,
    NAN,
    INFINITE,
    "-.inf",
    "many",
    "",
    [],
    {},
    [1],
]
TEXTS: list[Any] = ["", "none", 3, [], {}, "../../../x", "nul\u0001", "a" * 3000, "'", "{", "~"]
CLASSES: list[Any] = [
    *("", "nowhere.Thing", "namm.NAM", "namm.ICNN", "constraints.Spiral", "builtins.print"),
    *("os.system", "namm", "datamodules.FieldData", "mdm.MDM", "torch.nn.Linear", 3, [], None),
]
SECTIONS: list[Any] = [None, 3, "text", [], [1], True, {"class_path": 3}, {"init_args": []}]
WORDS = [
    *("--", "-", "-x", "--x", "=", "--=", "extra", "--model", "--model=", "--data=none.yaml"),
    *("--config", "-c=", "--ckpt_path=", "--ckpt_path=trainer.yaml", "--ckpt_path=best"),
    *("--seed_everything=-1", "--seed_everything=4294967296", "--seed_everything=one"),
    *("--trainer.devices=-2", "--trainer.devices=0", "--trainer.accelerator=abacus"),
    *("--trainer.val_check_interval=0", "--trainer.limit_train_batches=-1"),
    *("--trainer.precision=3", "--trainer.max_time=soon", "--trainer.strategy=none"),
    *("--trainer.callbacks=None.None", "--trainer.logger=3", "--trainer.profiler=none"),
    *("--trainer.accumulate_grad_batches=0", "--trainer.gradient_clip_val=big"),
    *("--model.init_args.lr.x=3", "--model.mirror.x.y=3", "--data.sizes.train=0"),
    *("--model.init_args=[]", "--data.init_args=3", "--model.class_path=", "--ema=3"),
    *("--flops.match=none.ckpt", "--checkpoint.every_n_train_steps=0", "--ema.decay=.nan"),
]
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda content, rng: b"",
    "half": lambda content, rng: content[: len(content) // 2],
    "without its end": lambda content, rng: content[:-1],
    "bytes": lambda content, rng: bytes(rng.randrange(256) for _ in range(64)),
    "no text": lambda content, rng: b"\xff\xfe" + content,
    "list": lambda content, rng: b"[1, 2]",
    "text": lambda content, rng: b"nothing of use\n",
    "twice": lambda content, rng: content + content,
    "null": lambda content, rng: b"null",
    "no keys": lambda content, rng: b"{}",
}


class Case(NamedTuple):
    """A command: its words, the configurations it finds, the files that are damaged and how, and
    the key and the value that a run must have if it is accepted."""

    argv: list[str]
    config: Any = PROBLEM
    damage: tuple[str, str] = ("", "")
    key: str = ""
    value: Any = None


def leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration, and its mappings, by their dotted paths."""
    if path:
        yield path, part
    if isinstance(part, dict):
        for key, value in part.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))


def wrong(value: Any, path: str, rng: random.Random) -> Any:
    """A value that takes the place of a value of its kind."""
    if path.endswith("class_path"):
        return rng.choice(CLASSES)
    if isinstance(value, dict):
        return rng.choice(SECTIONS)
    return rng.choice(NUMBERS if isinstance(value, int | float) else TEXTS)


def options(path: str, value: Any) -> list[str]:
    """The options that give a configuration a value."""
    return [f"--{path}={value if isinstance(value, str) else json.dumps(value)}"]


def of_files(rng: random.Random, verb: str) -> Case:
    """A value of the configuration is exchanged, in the file."""
    path, value = rng.choice([*leaves(PROBLEM)])
    new = wrong(value, path, rng)
    return Case([verb], edited(PROBLEM, path, new), key=path, value=new)


def of_options(rng: random.Random, verb: str) -> Case:
    """A value of the configuration is exchanged, by an option."""
    path, value = rng.choice([*leaves({**PROBLEM, **TRAINER})])
    new = wrong(value, path, rng)
    return Case([verb, *options(path, new)], key=path, value=new)


def of_names(rng: random.Random, verb: str) -> Case:
    """A key of the configuration is misspelt, left out or doubled."""
    path = rng.choice([path for path, _ in leaves(PROBLEM)])
    section, _, name = path.rpartition(".")
    letter = rng.randrange(len(name))
    misspelt = name[:letter] + rng.choice("xqz") + name[letter + 1 :]
    where = f"{section}.{misspelt}".lstrip(".")
    return Case([verb], edited(PROBLEM, where, rng.choice([3, "text", {}, None])))


def of_words(rng: random.Random, verb: str) -> Case:
    """A word is added to the command."""
    return Case([verb, *rng.sample(WORDS, rng.choice([1, 1, 2]))])


def of_damage(rng: random.Random, verb: str) -> Case:
    """A file that the command reads is damaged."""
    argv, files = rng.choice(
        [
            ([verb], ("problem.yaml", "trainer.yaml", "data.h5")),
            (["check", "Burgers", "--data=data.h5"], ("data.h5",)),
            (["report", "scored"], ("scored/score/results.json", "scored/score/fields.pt")),
            (["validate", "-c", CONFIG, "--ckpt_path=last.ckpt"], (CONFIG,)),
            (["validate", "--ckpt_path=last.ckpt"], ("last.ckpt", "data.h5")),
            (["fit", "--trainer.logger.version=b", "--ckpt_path=last.ckpt"], ("last.ckpt",)),
            (["fit", "--model.init_from=last.ckpt"], ("last.ckpt",)),
            (["run", "stages.yaml"], ("stages.yaml", "runs/stages/namm/started.json")),
            (["ship", "runs/toy", "shipped"], ("runs/toy/namm/checkpoints/last.ckpt",)),
        ]
    )  # fmt: skip
    return Case(argv, damage=(rng.choice(files), rng.choice([*DAMAGES])))


def of_verbs(rng: random.Random, verb: str) -> Case:
    """A verb that is none, or whose first argument is none."""
    words = ["", "fitt", "Fit", "help me", "check", "run", "report", "ship", "predict", "--fit"]
    return Case([rng.choice(words), *rng.sample([*WORDS, "none", "none.yaml", "data.h5", "."], 2)])


RULES = [*[of_files] * 6, *[of_options] * 5, *[of_names] * 4, *[of_words] * 3, *[of_damage] * 4]


def cases(seed: int, n: int) -> list[Case]:
    """Cases of all rules, drawn from a seed."""
    rng = random.Random(seed)
    verbs = ["fit"] * 8 + ["validate", "test"]
    return [rng.choice([*RULES, of_verbs])(rng, rng.choice(verbs)) for _ in range(n)]
