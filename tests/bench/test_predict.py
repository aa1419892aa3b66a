"""The model of time: what it computes, that it finds the chip behind two rows, and that its figures say so."""

from __future__ import annotations

import json

import ledger
import predict
import predictions
import pytest
from predict import PUBLISHED, Chip, Work

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.config import config_from_dict
from elm_mlx.device import chips


@pytest.fixture(autouse=True)
def _counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as test_ledger.py finds them, without counting again."""
    layer = {"elm-mlx": {"llama": 13, "openelm": 15, "bitnet": 15}, "mlx-lm": {"llama": 17, "openelm": 16}}
    outside = {"elm-mlx": (8, 5), "mlx-lm": (9, 6)}

    def counted(program: str, bits: int, deep: bool) -> dict[str, ledger.Ledger]:
        others = [0] * outside[program][bits == 16]
        return {family: ledger.Ledger([0] * (n + deep), others) for family, n in layer[program].items()}

    monkeypatch.setattr(predict, "counted", counted)


def test_time_is_host_and_launches_and_bytes() -> None:
    chip = Chip(host=1e-4, launch=2e-6, efficiency=0.5, bandwidth=100e9)
    assert chip.seconds(Work(300, 1e9)) == pytest.approx(1e-4 + 6e-4 + 0.02)


def test_two_rows_find_the_chip_they_were_made_on() -> None:
    chip = Chip(host=2e-4, launch=4e-6, efficiency=0.8, bandwidth=400e9)
    rows = [(work, chip.seconds(work)) for work in (Work(500, 1e8), Work(700, 5e9))]
    found = predict.fit(2e-4, 400e9, rows)
    assert (found.launch, found.efficiency) == pytest.approx((4e-6, 0.8))


@pytest.mark.parametrize(("small", "large"), [(1e-5, 0.02), (0.01, 0.002)])
def test_rows_that_no_chip_could_have_made_are_refused(small: float, large: float) -> None:
    with pytest.raises(ValueError, match="No chip fits"):
        predict.fit(0.0, 400e9, [(Work(500, 1e8), small), (Work(700, 5e9), large)])


def test_published_models_read_what_their_tables_say() -> None:
    def read(model: str, depth: int = 0) -> float:
        return predict.published_work({"model": model, "bits": 4, "depth": depth}).nbytes

    assert read("SmolLM-135M") == pytest.approx(0.0757e9, rel=0.01)
    assert read("Llama-3.2-1B") == pytest.approx(0.695e9, rel=0.01)
    assert read("Llama-3.1-8B") == pytest.approx(4.22e9, rel=0.01)  # without the embedding, which is no head
    assert read("Qwen3-4B", 2048) - read("Qwen3-4B") == 2 * 36 * 8 * 128 * 2 * 2048


def test_kernels_are_the_ledgers() -> None:
    assert predict.launches("mlx-lm", "llama", layers=30, bits=4, depth=0) == 30 * 17 + 9
    assert predict.launches("mlx-lm", "llama", layers=36, bits=4, depth=2048, more=2) == 36 * 20 + 9


@pytest.mark.parametrize("name", PUBLISHED["bandwidth_gb_s"])
def test_every_chip_has_two_rows_to_fit_and_others_to_fail_on(name: str) -> None:
    chip, rows = predict.fitted(name)
    errors = [error for row, error in rows if row.get("fit")]
    assert errors == pytest.approx([0.0, 0.0])
    assert len(rows) > 2
    assert chip.launch > 0
    assert all(row["source"] for row, _ in rows)


def test_openelm_s_own_published_rate_is_held_out() -> None:
    (own,) = [row for row in PUBLISHED["rows"] if row["model"].startswith("OpenELM")]
    assert not own.get("fit")
    assert own["chip"] == "M1 Ultra"
    work = predict.published_work(own)
    assert work == predict.openelm_work("openelm-1.1b", 4, "mlx-lm", 512)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_bits_and_depth_count(bits: int) -> None:
    shallow, deep = (predict.openelm_work("openelm-270m", bits, "elm-mlx", depth) for depth in (128, 2048))
    assert deep.nbytes - shallow.nbytes == 16_128 * (2048 - 128)  # the cache is in 16 bits
    assert shallow.nbytes == pytest.approx(271_527_168 * predict.BITS[bits] / 8 + 16_128 * 128)
    assert deep.kernels - shallow.kernels == 16  # attention takes two, in every layer


def test_the_page_and_the_packages_constants_are_what_the_script_gives() -> None:
    assert predictions.PAGE.read_text(encoding="utf-8") == predictions.page(), "run: python benchmarks/predictions.py"
    assert json.loads(predictions.DATA.read_text(encoding="utf-8")) == predictions.data()


@pytest.mark.parametrize("name", PUBLISHED["bandwidth_gb_s"])
@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("depth", [128, 2048])
def test_the_package_predicts_what_the_page_says(name: str, bits: int, depth: int) -> None:
    config = config_from_dict(SHAPES["openelm-450m"])
    weights = int(config.parameter_count * predict.BITS[bits] / 8)
    found = chips.predict(config, chips.Step(weights, 16, bits < 16, depth), name)
    work = predict.openelm_work("openelm-450m", bits, "elm-mlx", depth)
    assert found is not None
    assert found.tokens_per_s == pytest.approx(1 / predict.fitted(name)[0].seconds(work), rel=2e-3)
    errors = [abs(error) for row, error in predict.fitted(name)[1] if not row.get("fit")]
    assert found.rows_held_out == len(errors)
    assert found.worst_error == pytest.approx(max(errors), rel=1e-3)


def test_nothing_is_predicted_for_what_was_not_published_or_counted() -> None:
    config = config_from_dict(SHAPES["openelm-450m"])
    step = chips.Step(10**8, 16, True, 128)
    assert chips.predict(config, step, None) is None
    assert chips.predict(config, step, "M2") is None
    assert chips.predict(config_from_dict(SHAPES["openelm-20x64"]), step, "M5 Max") is None  # heads 16 wide
    assert chips.predict(config, step, "M5 Max") is not None
    assert chips.predict(config, chips.Step(10**8, 16, True, 2049), "M5 Max") is None
    assert max(row.get("depth", 0) for row in PUBLISHED["rows"]) == chips.DEEPEST


def test_an_embedding_that_is_no_head_is_not_read() -> None:
    config = config_from_dict(SHAPES["llama-3-8b"])
    work = chips.work_of(config, chips.Step(2 * config.parameter_count, 16, False, 0))
    assert work.nbytes == pytest.approx(2 * (config.parameter_count - 128_256 * 4096))
    assert work.kernels == 32 * 13 + 5


def test_every_figure_for_openelm_says_that_it_is_predicted_and_how_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    predict.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "openelm-" in line]
    assert len(lines) == len(PUBLISHED["bandwidth_gb_s"]) * len(predict.OPENELM) * 3
    assert all("predicted" in line and "% to +" in line for line in lines)
