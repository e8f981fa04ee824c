"""Published distances beside the distances of this code, and quick runs beside whole ones."""

from pathlib import Path
from typing import Any

from benchmarks.reference import PUBLISHED, against, agreement, beside, table
from inverse import DPS, Select
from tests.datamodules.references import Late, solve, value
from tests.problems import tiny_data


def test_published_distances_stand_beside_those_of_both_ends(tmp_path: Path) -> None:
    data, operator = tiny_data(tmp_path), Select(-1, 3, 8, 0.2)
    options: dict[str, Any] = {"fields": 1, "samples": 3, "method": "mirror-DPS"}
    rows = solve(
        tmp_path / "run", data, operator, DPS(transition=Late()), task="field 0", **options
    )
    rows += [{**row, "task": "fields 1 to 7"} for row in rows]  # of which nothing is published
    compared = beside(rows, PUBLISHED["burgers"])

    assert [row["protocol"] for row in compared] == ["clean", "published"]
    for row, line in zip(compared, table(compared).splitlines()[2:], strict=True):
        assert row["published"] == 6.2e-4
        wanted = {"task": "field 0", "protocol": row["protocol"], "metric": "distance"}
        own = value(rows, method="mirror-DPS", **wanted)
        assert row["value"] == own["value"]
        ratio = f"{own['value'] / 6.2e-4:.2g}" if row["protocol"] == "published" else ""
        assert line.endswith(f"| 0.00062 | {ratio} |")


def test_fewer_samples_agree_with_the_whole_run_within_its_widened_interval() -> None:
    def row(metric: str, value: float, half: float, n: int, method: str = "DPS") -> dict[str, Any]:
        return {
            **{"task": "field 0", "method": method, "protocol": "clean", "metric": metric},
            **{"value": value, "ci95": [value - half, value + half], "n": n},
        }

    whole = [row("distance", 1.0, 0.25, 32), row("chi2", 1.0, 0.25, 32), row("mmd", 0.0, 0.1, 32)]
    # the data, a metric that is not compared, and a method that the whole run has not
    others = [
        row("distance", 9.0, 0, 8, "data"),
        row("mmd", 9.0, 0, 8),
        row("chi2", 1, 1, 8, "new"),
    ]
    held = against(
        [row("distance", 1.75, 0.01, 8), row("chi2", 2.0, 0.9, 8), *others],
        [*whole, row("distance", 0.0, 0, 32, "data")],
    )

    assert [(line["metric"], line["agree"]) for line in held] == [
        ("distance", True),
        ("chi2", False),
    ]
    assert [line["allowed"] for line in held] == [0.75, 0.75]
    assert agreement(held).splitlines()[2:] == [
        "| field 0 | DPS | clean | distance | 8 | 1.75 | 32 | 1 | 0.75 | yes |",
        "| field 0 | DPS | clean | chi2 | 8 | 2 | 32 | 1 | 0.75 | no |",
    ]
