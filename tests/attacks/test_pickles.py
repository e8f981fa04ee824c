"""Files that hold more than data: pickles, and other bytes than were written."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from constraints import (
    Counter,
    InputError,
    TotalBrightness,
    digest,
    hash_content,
    load_counter,
    save_counter,
)
from datamodules import ImageData
from mdm import load_denoiser
from namm import ICNN, NAMM, Flops, MirrorMap, load_mirror
from namm.cli.main import main
from namm.training.checkpoint import read_checkpoint
from namm.training.io import AtomicCheckpointIO
from namm.training.weights import pack
from tests.attacks.planted import (
    PRIOR,
    Pickled,
    assert_nothing_ran,
    named,
    plant,
    plant_pickle,
    plant_results,
    stranger,
)
from tests.commands import FILES, checkpoint, fit

__all__ = ["stranger"]

READERS: dict[str, Any] = {
    "load_mirror": load_mirror,
    "load_denoiser": load_denoiser,
    "load_counter": load_counter,
    "load_from_checkpoint": NAMM.load_from_checkpoint,
    "operations": Flops._spent,
    "trainer": AtomicCheckpointIO().load_checkpoint,
    "trainer, not plain": lambda path: AtomicCheckpointIO().load_checkpoint(
        path, weights_only=False
    ),
    "Lightning, not plain": lambda path: NAMM.load_from_checkpoint(path, weights_only=False),
    "start": lambda path: NAMM(
        MirrorMap(ICNN(1, 2, 1), torch.nn.Identity()), TotalBrightness(), init_from=path
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_pickle_is_refused_in_python(
    reader: str, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError):
        READERS[reader](plant_pickle("a.ckpt"))
    assert_nothing_ran()


COMMANDS = {
    "test": ["test", *FILES, "--model=namm.Counting", "--model.counter=constraints.Counter",
             "--ckpt_path=a.ckpt"],
    "validate": ["validate", *FILES, "--ckpt_path=a.ckpt"],
    "predict": ["predict", *FILES, *PRIOR, "--ckpt_path=a.ckpt"],
    "resume": ["fit", *FILES, "--ckpt_path=a.ckpt"],
    "resume, last": ["fit", *FILES, "--ckpt_path=last"],
    "start": ["fit", *FILES, "--model.init_from=a.ckpt"],
    "operations": ["fit", *FILES, "--flops.match=[a.ckpt]"],
    "part": ["fit", *FILES, *PRIOR, "--model.mirror=namm.load_mirror",
             "--model.mirror.checkpoint=a.ckpt"],
    "counter": ["check", "Count", "--constraint.counter=constraints.load_counter",
                "--constraint.counter.file=a.ckpt", "--shape=[1,16,16]"],
    "ship": ["ship", "runs/toy", "shipped"],
    "report": ["report", "runs/toy"],
}  # fmt: skip


@pytest.mark.parametrize("plain", ["", "--weights_only=false"])
@pytest.mark.parametrize("command", COMMANDS)
def test_pickle_is_refused_by_a_command(
    command: str, plain: str, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if plain and COMMANDS[command][0] not in ("fit", "test", "validate", "predict"):
        pytest.skip("no option of this verb")
    plant_pickle("a.ckpt")
    stage = {"resume, last": "a", "ship": "namm", "report": "namm"}.get(command, "other")
    plant_pickle(f"runs/toy/{stage}/checkpoints/last.ckpt")
    plant_results(Path("runs/toy/test"))

    assert main([*COMMANDS[command], *filter(None, [plain])]) in (1, 2)
    assert_nothing_ran()
    error = capsys.readouterr().err.splitlines()[-1]  # below the bar of the simulation
    assert error.startswith("namm: error: ")
    assert ("weights_only" if plain else ".ckpt") in error


@pytest.mark.parametrize("name", ["fields.pt", "given.pt"])
def test_pickled_fields_are_refused_by_the_report(name: str, stranger: Path) -> None:
    plant_results(Path("runs/toy/test"))
    torch.save({"dm": Pickled()}, Path("runs/toy/test", name))

    assert main(["report", "runs/toy"]) == 1
    assert_nothing_ran()


def test_pickled_image_is_refused(stranger: Path) -> None:
    Path("images").mkdir()
    np.save("images/a.npy", np.array([Pickled()], dtype=object), allow_pickle=True)
    rule = TotalBrightness(1.0)
    data = ImageData(rule, folder="images", size=2, file="a.h5", sizes={"test": 1})
    with pytest.raises(InputError, match=r"a\.npy"):
        data.prepare_data()
    assert_nothing_ran()


def test_image_that_declares_more_than_it_holds_is_refused(stranger: Path) -> None:
    Path("images").mkdir()
    np.save("images/a.npy", np.zeros((4, 4)))
    whole = Path("images/a.npy").read_bytes()
    Path("images/a.npy").write_bytes(whole.replace(b"(4, 4)", b"(40000, 40000)")[: len(whole)])
    data = ImageData(TotalBrightness(1.0), folder="images", size=2, file="a.h5", sizes={"test": 1})
    with pytest.raises(InputError, match=r"a\.npy"):
        data.prepare_data()


# the hash of the tensors
def maps() -> dict[str, Any]:
    return named(
        "namm.MirrorMap",
        forward_map=named("torch.nn.Linear", in_features=3, out_features=3),
        inverse_map=named("torch.nn.Linear", in_features=3, out_features=3),
    )


def shipped() -> tuple[str, bytes]:
    """Returns the name of shipped weights, and the bytes of a weight in them."""

    torch.manual_seed(3)
    mirror = MirrorMap(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    state = {
        "state_dict": {f"mirror.{k}": w for k, w in mirror.state_dict().items()},
        "hyper_parameters": {"mirror": maps(), "beta": (0.5, 0.9)},
        "global_step": 7,
        "callbacks": {},
    }
    Path("a.safetensors").write_bytes(pack(state))
    AtomicCheckpointIO().save_checkpoint(
        {**state, "optimizer_states": [{0: torch.ones(5)}]}, "a.ckpt"
    )
    counter = Counter(width=1, blocks=0)
    save_counter(counter, "counter.safetensors")
    weight = mirror.inverse_map.weight.detach().numpy().tobytes()
    return "a.safetensors", weight


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_any_flipped_bit_of_a_weight_is_seen(name: str, stranger: Path) -> None:
    _, weight = shipped()
    load_mirror(name)
    whole = Path(name).read_bytes()
    start = whole.index(weight)
    for bit in range(0, 8 * len(weight), 7):
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << bit % 8
        Path(name).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            load_mirror(name)


def test_flipped_bit_of_the_optimiser_is_seen(stranger: Path) -> None:
    shipped()
    whole = bytearray(Path("a.ckpt").read_bytes())
    start = whole.index(np.ones(5, np.float32).tobytes())
    whole[start + 3] ^= 64
    Path("a.ckpt").write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        AtomicCheckpointIO().load_checkpoint("a.ckpt")


def test_flipped_bit_of_a_counter_is_seen(stranger: Path) -> None:
    shipped()
    load_counter("counter.safetensors")
    whole = bytearray(Path("counter.safetensors").read_bytes())
    whole[-2] ^= 1
    Path("counter.safetensors").write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        load_counter("counter.safetensors")


def test_changed_number_beside_the_weights_is_seen(stranger: Path) -> None:
    shipped()
    whole = Path("a.safetensors").read_bytes()
    changed = whole.replace(b'global_step\\": 7', b'global_step\\": 9')
    assert changed != whole
    Path("a.safetensors").write_bytes(changed)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint("a.safetensors")


def test_trained_checkpoint_holds_its_hash_and_damage_is_refused(
    stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("a", "--trainer.max_steps=2") is None
    state = checkpoint("a")
    assert state.pop("sha256") == hash_content(state)

    file = Path("runs/toy/a/checkpoints/last.ckpt")
    whole = bytearray(file.read_bytes())
    weight = next(w for w in state["current_model_state"].values() if w.numel() > 8)
    whole[whole.index(weight.numpy().tobytes()) + 3] ^= 64
    file.write_bytes(whole)
    for argv in (["fit", *FILES, "--ckpt_path=last"], ["ship", "runs/toy", "shipped"]):
        if argv[0] == "ship":
            shutil.move("runs/toy/a", "runs/toy/namm")
        assert main(argv) == 1
        assert "damaged" in capsys.readouterr().err


def test_older_files_are_read_with_one_notice(
    stranger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped()
    state = AtomicCheckpointIO().load_checkpoint("a.ckpt")
    torch.save(state, "old.ckpt")
    save_file(
        load_file("counter.safetensors"),
        "old.safetensors",
        {"counter": '{"width": 1, "blocks": 0}'},
    )
    digest._notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_mirror("old.ckpt")
            load_counter("old.safetensors")
    notices = [record.getMessage() for record in caplog.records]
    assert len(notices) == 2 and all("holds no hash" in notice for notice in notices)
    assert "old.ckpt" in notices[0] and "old.safetensors" in notices[1]


def test_hash_depends_on_names_types_shapes_and_bytes() -> None:
    x = torch.arange(6.0)
    contents = [
        {"a": x},
        {"b": x},
        {"a": x.view(2, 3)},
        {"a": x.double()},
        {"a": x.view(torch.int32)},
        {"a": x + 1e-6},
        {"a": {"a": x}},
        {"a": [x]},
        {"a": x, "b": 1},
        {"a": x, "b": 1.5},
        {"a": x, "b": None},
        {"a": x.bfloat16()},
        {"a": x[:0]},
    ]
    assert len({hash_content(content) for content in contents}) == len(contents)
    assert hash_content({"b": 2, "a": x}) == hash_content({"a": x.clone(), "b": 2})
    assert hash_content({"a": (1, 2), 3: x}) == hash_content({"a": [1, 2], "3": x})


def test_planted_file_is_whole(stranger: Path) -> None:
    plant("b.ckpt", mirror=maps())
    plant("b.safetensors", mirror=maps())
    for name in ("b.ckpt", "b.safetensors"):
        assert read_checkpoint(name)["hyper_parameters"] == {"mirror": maps()}
