"""Commands whose help shows their options in sections: those of all commands that ask a model, in one order."""

from __future__ import annotations

import click

# A section -> the options in it, by their names in Python. An option that is in none comes under OTHERS.
SECTIONS = {
    "Model": (
        "model",
        "models",
        "aliases",
        "adapters",
        "pull",
        "keep_alive_s",
        "shapes",
        "bits",
        "adapter",
        "dtype",
        "parallel",
        "force",
    ),
    "Prompt": ("prompt", "system", "raw", "chat_template"),
    "Tests": ("prompts", "generations", "depths", "batch", "repetitions", "compare", "cpu_policy", "submit"),
    "Requests": ("output", "concurrency", "retry_errors", "with_prompts", "max_queue", "context", "strict"),
    "Address": ("host", "port", "uds", "stdio"),
    "Access": ("api_key_file", "allowed_origins", "allowed_hosts"),
    "Sampling": (
        *("temperature", "top_k", "top_p", "min_p"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "banned_ids"),
        *("seed", "plain"),
    ),
    "Stopping": ("max_tokens", "stop"),
    "Structured output": ("schema", "regex", "choices", "grammar"),
    "Caches": ("window", "kv_bits", "save_cache", "load_cache"),
    "Speculation": ("draft", "lookup"),
    "Output": ("completions", "logprobs", "log_format", "as_json", "connect", "show_config", "quiet", "help"),
}
OTHERS = "Options"
WIDEST = 30  # columns of a flag and its value, as click has it


def section_of(name: str | None) -> str:
    """The section of an option, by its name in Python."""
    return next((title for title, names in SECTIONS.items() if name in names), OTHERS)


class SectionedCommand(click.Command):
    """A command that writes its options in SECTIONS, all in the same two columns."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections that have options here."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                name = "help" if "--help" in option.opts else option.name  # click has a name of its own for it
                rows.setdefault(section_of(name), []).append(record)
        width = min(WIDEST, max(len(flags) for section in rows.values() for flags, _ in section))
        for title in (*SECTIONS, OTHERS):
            if title in rows:
                with formatter.section(title):
                    formatter.write_dl([(flags.ljust(width), meaning) for flags, meaning in rows[title]])
