"""The command line: text on stdout and all else on stderr, one JSON object on request, an exit code a mistake.

Most tests call `elm_mlx.cli.run` in this process; those about signals, pipes and closed streams start one.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import mlx.core as mx
import pexpect
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx import cli, errors
from elm_mlx.api import model_info
from elm_mlx.cli.group import COMMANDS, GROUPS, MODULES
from elm_mlx.cli.group import cli as cli_group
from elm_mlx.convert import convert
from elm_mlx.convert import verify as verification
from elm_mlx.convert.job import MARGIN_BYTES

PROGRAM = [sys.executable, "-m", "elm_mlx"]
# A test run in the background of a shell ignores Ctrl-C, and its children with it; this one listens again.
INTERRUPTIBLE = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
                 "from elm_mlx.cli import main; main()"]  # fmt: skip


class Result(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command line in this process, with `stdin` piped to it (None: there is no stdin at all)."""

    def call(*arguments: object, stdin: bytes | None = b"") -> Result:
        monkeypatch.setattr(
            sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        )
        code = cli.run([str(argument) for argument in arguments])
        out, err = (stream.decode() for stream in capsysbinary.readouterr())
        assert "Traceback" not in err
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no end-of-text id, so it generates until it is stopped."""
    raw = checkpoints.LLAMA | {"eos_token_id": None, "max_position_embeddings": 100_000}
    folder = checkpoints.write(tmp_path_factory.mktemp("models") / "endless", raw)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "add_bos_token": true}', encoding="utf-8")
    return folder


@pytest.fixture
def damaged(openelm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny OpenELM, for a test to break."""
    return Path(shutil.copytree(openelm, tmp_path / "model"))


def answer(result: Result) -> dict[str, Any]:
    """The JSON object that is all of stdout, on one line."""
    assert result.code == 0, result.err
    assert result.out.endswith("}\n")
    assert result.out.count("\n") == 1
    value: dict[str, Any] = json.loads(result.out)
    return value


# generate: what goes where


def test_stdout_gets_the_completion_and_one_newline(run: Run, endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hello", "--max-tokens", 12]
    spoken = answer(run(*command, "--json"))
    assert run(*command).out == spoken["text"] + "\n"
    assert elm_mlx.load(endless).generate("Hello", 12).text == spoken["text"]


def test_notices_go_to_stderr(run: Run, endless: Path) -> None:
    demo = run("generate", "--max-tokens", 1)
    assert "built-in demo" in demo.err
    assert "demo" not in demo.out
    named = run("generate", "--model", endless, "--max-tokens", 1)
    notice = elm_mlx.load(endless).notice
    assert named.err == (f"{notice}\n" if notice else "")


def test_json_is_one_object_with_these_keys(run: Run, endless: Path) -> None:
    spoken = answer(run("generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 3, "--json"))
    assert list(spoken) == ["model", "text", "tokens", "finish_reason", "stats"]
    assert (spoken["model"], spoken["finish_reason"], len(spoken["tokens"])) == (str(endless), "length", 3)
    assert {name: type(value) for name, value in spoken["stats"].items()} == {
        "prompt_tokens": int,
        "generated_tokens": int,
        "time_to_first_token_s": float,
        "prefill_tokens_per_s": float,
        "decode_tokens_per_s": float,
        "peak_memory_bytes": int,
    }
    assert answer(run("generate", "--max-tokens", 1, "--json"))["model"] == "demo"


def test_escape_codes_of_a_model_are_text_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Coloured:
        notice = None
        has_chat_template = False

        def stream(self, *_: object, **__: object) -> Any:
            return iter([elm_mlx.Piece("\x1b[1mbold", 5, "length")])

    monkeypatch.setattr(elm_mlx, "load", lambda *_, **__: Coloured())
    assert run("generate", "--model", ".").out == "\x1b[1mbold\n"


# generate: the prompt


def test_a_prompt_comes_by_option_by_dash_and_by_pipe(run: Run, endless: Path) -> None:
    command = ["generate", "--model", endless, "--max-tokens", 4, "--json"]
    by_option = answer(run(*command, "--prompt", "Grüße", stdin=b"not read"))
    by_dash = answer(run(*command, "--prompt", "-", stdin="Grüße\n".encode()))
    by_pipe = answer(run(*command, stdin="Grüße".encode()))
    assert by_option["tokens"] == by_dash["tokens"] == by_pipe["tokens"]
    two_newlines = answer(run(*command, stdin="Grüße\n\n".encode()))
    assert two_newlines["stats"]["prompt_tokens"] > by_option["stats"]["prompt_tokens"]


@pytest.mark.parametrize("nothing", [b"", b"\n", None], ids=["empty", "newline", "no stdin"])
def test_without_a_prompt_a_model_starts_from_bos_and_the_demo_from_its_story(
    run: Run, endless: Path, nothing: bytes | None
) -> None:
    def ask(*arguments: object) -> dict[str, Any]:
        return answer(run("generate", "--max-tokens", 4, "--json", *arguments, stdin=nothing))

    assert ask("--model", endless)["stats"]["prompt_tokens"] == 1
    assert ask("--model", endless, "--prompt", "-")["stats"]["prompt_tokens"] == 1
    assert ask()["tokens"] == ask("--prompt", "Once upon a time")["tokens"]
    assert ask("--prompt", "-")["stats"]["prompt_tokens"] == 1


def test_a_pipe_that_is_not_utf8_is_refused(run: Run, endless: Path) -> None:
    done = run("generate", "--model", endless, stdin=b"caf\xe9")
    assert (done.code, done.out) == (2, "")
    assert "not UTF-8" in done.err


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(run: Run, openelm: Path) -> None:
    length = len(elm_mlx.load(openelm).tokenizer.encode("far " * 400))
    done = run("generate", "--model", openelm, stdin=b"far " * 400)
    assert (done.code, done.out) == (2, "")
    assert f"{length} tokens" in done.err
    assert "context 512" in done.err


# generate: sampling


def test_a_seed_repeats_and_another_differs(run: Run, endless: Path) -> None:
    def tokens(*options: object) -> list[int]:
        command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 16, "--json", *options]
        found: list[int] = answer(run(*command))["tokens"]
        return found

    assert tokens("--temperature", 1, "--seed", 0) == tokens("--temp", 1, "--seed", 0)
    assert tokens("--temperature", 1, "--seed", 0) != tokens("--temperature", 1, "--seed", 1)
    assert tokens("--temperature", 1) != tokens("--temperature", 1)
    assert tokens("--temperature", 1, "--top-k", 1) == tokens() == tokens("--temperature", 0, "--seed", 3)


# Mistakes


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("generate --nonsense", "No such option"),
        ("generate extra", "unexpected extra argument"),
        ("generate --max-tokens 0", "0 is not in the range"),
        ("generate --max-tokens many", "'many' is not a valid integer"),
        ("generate --temperature -1", "-1.0 is not in the range"),
        ("generate --temperature nan", "temperature is nan"),
        ("generate --temperature inf", "temperature is inf"),
        ("generate --temperature 1 --top-p 0", "0.0 is not in the range"),
        ("generate --temperature 1 --top-p 1.1", "1.1 is not in the range"),
        ("generate --temperature 1 --top-k -1", "-1 is not in the range"),
        ("generate --temperature 1 --top-k 1.5", "'1.5' is not a valid integer"),
        ("generate --temperature 1 --min-p 2", "2.0 is not in the range"),
        ("generate --model MODEL --top-k 5", "top_k would change nothing"),
        ("info MODEL MODEL", "unexpected extra argument"),
        ("convert", "Missing argument 'SOURCE'"),
        ("convert MODEL --output OUT --bits 7", "'7' is not one of"),
        ("convert MODEL --output OUT --group-size 32", "--group-size means nothing without --bits"),
        ("convert MODEL --output OUT --bits 4 --group-size 48", "'48' is not one of"),
        ("convert MODEL --output OUT --bits 4 --mode mxfp4", "--mode mxfp4 fixes its bits"),
        ("convert MODEL --output OUT --group-size 32 --mode nvfp4", "--mode nvfp4 fixes its bits"),
        ("convert MODEL --output OUT --mode ternary", "'ternary' is not one of"),
        ("convert MODEL --output OUT --dtype int8", "'int8' is not one of"),
        ("convert MODEL --output OUT --max-shard-size 0", "max_shard_size is 0"),
    ],
)
def test_wrong_use_is_exit_2_and_says_why(run: Run, openelm: Path, tmp_path: Path, line: str, complaint: str) -> None:
    places = {"MODEL": str(openelm), "OUT": str(tmp_path / "out")}
    done = run(*(places.get(word, word) for word in line.split()))
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _config(**changes: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(
        json.dumps(checkpoints.OPENELM | changes), encoding="utf-8"
    )


def _cut(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)


def _config_is_a_directory(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@pytest.mark.parametrize(
    ("breakage", "code", "complaint"),
    [
        (shutil.rmtree, 66, "There is no"),
        (_without("config.json"), 66, "config.json"),
        (_without("model.safetensors"), 66, "no weights"),
        (_without("tokenizer.json"), 66, "--tokenizer"),
        (_config(model_type="qwen3"), 78, "'qwen3'"),
        (_config(model_dim=-1), 65, "model_dim is -1"),
        (lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"), 65, "not valid JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}", encoding="utf-8"), 65, "tokenizer"),
        (_cut, 65, "cut short"),
        (_config_is_a_directory, 65, "it is a folder"),
    ],
)
def test_a_model_that_cannot_run_is_a_sentence(
    run: Run, damaged: Path, breakage: Callable[[Path], object], code: int, complaint: str
) -> None:
    breakage(damaged)
    for arguments in (["generate", "--model", damaged], ["convert", damaged]):
        done = run(*arguments)
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith("elm-mlx: ")
        assert complaint in done.err
        assert str(damaged.name) in done.err or "config.json" in done.err
    assert [path.name for path in damaged.parent.iterdir() if path != damaged] == []


# convert and info


def test_convert_writes_beside_the_source_and_says_so(run: Run, damaged: Path) -> None:
    done = run("convert", damaged, "--bits", 8, "--group-size", 32)
    target = damaged.parent / "model-mlx-8bit"
    assert (done.code, done.out) == (0, "")
    assert f'elm-mlx generate --model "{target}"' in done.err
    assert run("generate", "--model", target, "--max-tokens", 1).code == 0


def test_convert_prints_its_summary_as_json(run: Run, openelm: Path, tmp_path: Path) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", "--mode", "mxfp4", "--json"]
    summary = answer(run(*command))
    keys = ["output", "family", "layout", "parameters", "bytes", "bits_per_weight", "dropped", "report"]
    assert list(summary) == keys
    assert summary["output"] == str(tmp_path / "out")
    assert summary["parameters"] == sum(array.size for array in checkpoints.weights(checkpoints.OPENELM).values())


def test_a_dry_run_tells_everything_and_writes_nothing(run: Run, openelm: Path, tmp_path: Path) -> None:
    command = ["convert", openelm, "--output", tmp_path / "out", "--bits", 4, "--dry-run"]
    told = run(*command)
    assert (told.code, told.err, list(tmp_path.iterdir())) == (0, "", [])
    planned = answer(run(*command, "--json"))
    assert set(planned["tensors"]) == set(checkpoints.weights(checkpoints.OPENELM))
    done = answer(run(*command[:-1], "--json"))
    assert {key: planned[key] for key in ("bytes", "bits_per_weight", "parameters", "output")} == {
        key: done[key] for key in ("bytes", "bits_per_weight", "parameters", "output")
    }
    header = 8 + int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
    assert planned["files"] == {"model.safetensors": (tmp_path / "out" / "model.safetensors").stat().st_size - header}
    assert "affine 4-bit in groups of 64" in told.out


def test_a_checkpoint_moves_no_cursor(run: Run, damaged: Path, tmp_path: Path) -> None:
    arrays = mx.load(str(damaged / "model.safetensors"))
    checkpoints.save(damaged, arrays | {"\x1b[2J.rotary_emb.inv_freq": mx.ones(1)})  # type: ignore[operator]
    told = run("convert", damaged, "--output", tmp_path / "out", "--dry-run")
    assert "\ufffd[2J.rotary_emb.inv_freq" in told.out
    assert "\x1b" not in told.out


def test_a_dry_run_ends_as_the_real_one_would(
    run: Run, openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a" / "out"
    command = ["convert", openelm, "--output", target, "--dry-run"]
    assert run(*command).code == 0
    assert list(tmp_path.iterdir()) == []
    convert(openelm, target)
    assert (run(*command).code, run(*command, "--force").code) == (73, 0)
    (target / "config.json").rename(target / "thesis.txt")
    assert run(*command, "--force").code == 73
    shutil.rmtree(target)
    free = answer(run(*command, "--json"))["bytes"] + MARGIN_BYTES - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    full = run(*command)
    assert (full.code, "stored as" in full.out) == (74, True)
    assert list(target.parent.iterdir()) == []
    (target.with_name(".out.partial")).mkdir()
    (target.with_name(".out.partial") / "model.safetensors").write_bytes(b"1")
    assert run(*command).code == 0  # what a killed run left is gone on with, or removed


def test_convert_verify_keeps_what_passes_and_says_so_in_its_card(
    run: Run, openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = answer(run("convert", openelm, "--output", tmp_path / "out", "--bits", 8, "--verify", "--json"))
    assert 0 < done["report"]["kl_divergence"] < done["report"]["bound"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{done['report']['kl_divergence']:.3g}" in card
    monkeypatch.setitem(verification.MAX_KL, "4-bit", 0.0)
    failed = run("convert", openelm, "--output", tmp_path / "bad", "--bits", 4, "--verify")
    assert (failed.code, failed.out) == (72, "")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert run("convert", openelm, "--output", tmp_path / "plain").code == 0
    assert "Not measured" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")


def test_convert_replaces_nothing_unless_forced(run: Run, openelm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    done = run("convert", openelm, "--output", target)
    assert (done.code, done.out) == (73, "")
    assert "--force" in done.err
    assert [(path.name, path.read_text(encoding="utf-8")) for path in target.iterdir()] == [
        ("thesis.txt", "irreplaceable")
    ]
    assert run("convert", openelm, "--output", target, "--force").code == 73  # no model: not ours to delete
    assert (target / "thesis.txt").exists()
    (target / "thesis.txt").rename(target / "config.json")
    assert run("convert", openelm, "--output", target, "--force").code == 0
    assert elm_mlx.info(target).family == "openelm"
    assert list(tmp_path.iterdir()) == [target]


def figures(done: Result) -> dict[str, Any]:
    """What info says of a model, whatever the machine."""
    return {name: value for name, value in answer(done).items() if name not in ("footprint", "available", "fits")}


def test_info_reckons_memory_for_a_context_and_bits(run: Run, openelm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answer(run("info", openelm, "--json", "--context", 100, "--bits", 4))
    weights = plain["parameters"] * 9 // 16  # 4 bits, and a scale and a bias of 16 for each 64 weights
    cache = 100 * plain["kv_bytes_per_token"]
    headroom = 64 * 2**20 + weights // 10
    assert plain["footprint"] == {"weights": weights, "cache": cache, "headroom": headroom, "context": 100}
    assert plain["fits"]
    assert answer(run("info", openelm, "--json"))["footprint"]["weights"] == plain["weight_bytes"]
    monkeypatch.setattr(model_info, "memory_limit", lambda: weights)
    assert "fits             no: this machine has 0.00 GB" in run("info", openelm).out


def test_info_shows_exact_figures(run: Run, openelm: Path, tmp_path: Path) -> None:
    parameters = sum(array.size for array in checkpoints.weights(checkpoints.OPENELM).values())
    plain = figures(run("info", openelm, "--json"))
    assert plain == {
        "model": str(openelm),
        "family": "openelm",
        "parameters": parameters,
        "bits_per_weight": 32.0,
        "weight_bytes": 4 * parameters,
        "kv_bytes_per_token": 2 * (1 + 2 + 2 + 2) * 16 * 4,  # k and v, kv heads of the layers, head dim, float32
        "context_length": 512,
        "dtype": "float32",
        "quantization": None,
    }
    target = convert(openelm, tmp_path / "out", bits=4, group_size=32).output
    stored = sum(array.nbytes for array in mx.load(str(target / "model.safetensors")).values())
    assert figures(run("info", target, "--json")) == plain | {
        "model": str(target),
        "bits_per_weight": 8 * stored / parameters,
        "weight_bytes": stored,
        "kv_bytes_per_token": plain["kv_bytes_per_token"] // 2,
        "dtype": "bfloat16",
        "quantization": {"group_size": 32, "bits": 4, "mode": "affine"},
    }
    assert stored < parameters  # under 8 bits a weight


def test_info_shows_the_same_figures_as_text(run: Run, openelm: Path) -> None:
    figures = answer(run("info", openelm, "--json"))
    shown = run("info", openelm).out
    for name in ("parameters", "weight_bytes", "kv_bytes_per_token", "context_length"):
        assert f"{figures[name]:,}" in shown
    assert "built-in" not in shown
    assert run("info").out.splitlines()[0].split() == ["model", "demo"]


# The program


def test_help_names_every_command_and_every_exit_code(run: Run) -> None:
    shown = run("--help").out
    files = {
        path.stem
        for path in Path(cli.__file__).parent.glob("*.py")
        if "@click.command" in path.read_text(encoding="utf-8")
    }
    assert files == {MODULES.get(name, name) for name in COMMANDS}
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", shown, re.M)
        assert run(name, "--help").out.startswith(f"Usage: elm-mlx {name}")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ElmError)]
    codes = {kind.exit_code for kind in kinds} | {0, cli.HUNG_UP, cli.INTERRUPTED, cli.PIPE_CLOSED, cli.TERMINATED}
    assert {int(code) for code in re.findall(r"\b\d+\b", shown.partition("Exit codes:")[2])} == codes


def test_the_bare_program_shows_an_overview_by_purpose_with_three_examples(run: Run) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    places = [done.out.index(f"{title}:") for title in GROUPS]
    assert places == sorted(places)
    examples = done.out.partition("Examples:")[2].partition("Environment:")[0]
    assert len(re.findall(r"^ +elm-mlx (\w+)", examples, re.M)) == 3


def test_quiet_leaves_the_result_and_errors(run: Run) -> None:
    assert run("generate", "--max-tokens", 1, "--quiet").err == ""
    assert "There is no directory" in run("generate", "--model", "./nowhere", "-q").err


def test_every_option_has_a_mirror_in_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_MAX_TOKENS", "2")
    monkeypatch.setenv("ELM_MLX_QUIET", "1")
    monkeypatch.setenv("ELM_MLX_JSON", "1")
    done = run("generate")
    assert (len(answer(done)["tokens"]), done.err) == (2, "")
    assert len(answer(run("generate", "--max-tokens", 3))["tokens"]) == 3  # what is typed comes first
    monkeypatch.setenv("ELM_MLX_MAX_TOKENS", "many")
    assert "ELM_MLX_MAX_TOKENS" in run("generate").err


def test_what_overrides_a_refusal_has_no_mirror_and_a_preference_for_bits_no_say_where_it_means_nothing(
    run: Run, openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ELM_MLX_FORCE", "ELM_MLX_YES"):
        monkeypatch.setenv(name, "1")
    target = tmp_path / "out"
    assert run("convert", openelm, "--output", target).code == 0
    assert run("convert", openelm, "--output", target).code == 73
    monkeypatch.setenv("ELM_MLX_BITS", "4")
    assert run("generate", "--max-tokens", 1).code == 0
    assert run("generate", "--model", target, "--max-tokens", 1).code == 0
    assert run("generate", "--bits", 4, "--max-tokens", 1).code == 2


def test_no_two_options_share_a_mirror_and_mean_different_things() -> None:
    known = {"ELM_MLX_CACHE", "ELM_MLX_BLAS"}  # which are no options
    for name in COMMANDS:
        command = cli_group.get_command(click.Context(cli_group), name)
        assert command is not None
        mirrors = [option.envvar for option in command.params if isinstance(option, click.Option)]
        assert len(set(mirrors)) == len(mirrors)
        assert not known & set(mirrors)


def test_the_shell_completes_commands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ELM_MLX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "elm-mlx gen")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run() == (0, "plain,generate\n", "")


def test_an_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(elm_mlx, "load", interrupted)
    assert run("generate") == (130, "", "")


# In a process of its own


def process(*arguments: object, program: list[str] = PROGRAM, **settings: Any) -> subprocess.Popen[bytes]:
    """Starts a command line with empty stdin and the other streams as pipes, buffered as users have them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    usual: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment,
    }
    return subprocess.Popen([*program, *map(str, arguments)], **(usual | settings))


def ended(child: subprocess.Popen[bytes]) -> Result:
    """The child's end; its notices aside, nothing may be on its stderr."""
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    said = [line for line in (err or b"").decode().splitlines() if "MLX runs on its CPU backend" not in line]
    return Result(child.returncode, (out or b"").decode(), "\n".join(said))


def test_python_m_runs_the_program() -> None:
    assert ended(process("--version")) == (0, f"elm-mlx {elm_mlx.__version__}\n", "")


def test_ctrl_c_keeps_what_was_written(endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 50_000]
    child = process(*command, program=INTERRUPTIBLE)
    assert child.stdout
    first = os.read(child.stdout.fileno(), 4096).decode()
    assert len(first) < 100  # it came as it was made
    child.send_signal(signal.SIGINT)
    done = ended(child)
    assert (done.code, done.err) == (130, "")
    expected = ended(process(*command[:-1], 40)).out
    assert expected.startswith((first + done.out)[:20])


@pytest.mark.parametrize(("ending", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_termination_tidies_up_a_conversion(openelm: Path, tmp_path: Path, ending: str, code: int) -> None:
    """Between two tensors: nothing under the final name, no folder left beside it."""
    script = (
        "import os, signal, sys; from elm_mlx.convert.output import pipeline; right = pipeline.convert_rows\n"
        "def wrong(name, *rest):\n"
        f"    if 'layers.2' in name: os.kill(os.getpid(), signal.{ending})\n"
        "    return right(name, *rest)\n"
        "pipeline.convert_rows = wrong\n"
        "from elm_mlx.cli import main; main()"
    )
    program = [sys.executable, "-c", script]
    done = ended(process("convert", openelm, "--output", tmp_path / "out", program=program))
    assert (done.code, done.out, done.err) == (code, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_leaves_ends_it_quietly(endless: Path, form: list[str]) -> None:
    tokens = 300 if form else 50_000
    child = process("generate", "--model", endless, "--max-tokens", tokens, *form)
    assert child.stdout
    if not form:
        os.read(child.stdout.fileno(), 1)
    child.stdout.close()
    child.stdout = None
    assert ended(child) == (141, "", "")


def test_closed_streams_are_not_taken_for_files(openelm: Path, tmp_path: Path) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PROGRAM]
    assert ended(process("convert", openelm, "--output", tmp_path / "out", program=closed)).code == 0
    assert ended(process("generate", "--model", tmp_path / "out", "--max-tokens", 3, program=closed)).code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_stdout_is_a_sentence(endless: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = ended(process("generate", "--model", endless, "--max-tokens", 3, stdout=full))
    assert (done.code, done.err) == (74, "elm-mlx: The output: No space left on device. Free some space.")


def test_a_narrow_encoding_loses_characters_and_nothing_else(endless: Path) -> None:
    def text(encoding: str) -> str:
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 40]
        done = ended(process(*command, env=environment))
        assert (done.code, done.err) == (0, "")
        return done.out

    assert not text("utf-8").isascii()
    assert text("ascii") == text("utf-8").encode("ascii", "replace").decode()


def test_on_a_terminal_the_demo_waits_for_no_prompt() -> None:
    child = pexpect.spawn(PROGRAM[0], [*PROGRAM[1:], "generate", "--max-tokens", "3"], timeout=30)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert b"built-in demo" in child.before
    assert b"\x1b[" not in child.before  # quick work shows no bar
