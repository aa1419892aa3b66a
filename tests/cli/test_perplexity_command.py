"""`elm-mlx perplexity`: figures on stdout, as rows or as JSON."""

from __future__ import annotations

from helpers.command_line import answer, run


def test_perplexity_prints_its_figures(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time there was a fox.")
    (tmp_path / "b.txt").write_text("The fox was happy.")
    done = answer(run("perplexity", "--text", tmp_path, "--json"))
    assert done["bytes"] == len("Once upon a time there was a fox.The fox was happy.")
    assert 0 < done["bits_per_byte"] < done["bits_per_token"]
    assert "bits per byte" in run("perplexity", "--text", tmp_path / "a.txt", "--window", "8").out
