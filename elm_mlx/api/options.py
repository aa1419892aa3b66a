"""The options of a call that generates, each declared once for all calls that do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypedDict

from elm_mlx.api.cache_kind import check_cache_options
from elm_mlx.arguments import shown, whole_number
from elm_mlx.config.generation import SAMPLING_NAMES, Sampling, biases_by_id
from elm_mlx.config.stop_strings import check_stop_strings
from elm_mlx.engine.logprobs import MOST_ALTERNATIVES
from elm_mlx.errors import InvalidRequest

MAX_TOKENS = 256  # of a call that names no other number


class Options(TypedDict, total=False):
    """How to choose the ids of an answer. An option that is missing or None means the model's own generation_config;
    where that says nothing about sampling, what its publisher recommends (`elm_mlx.library.recommended`); else greedy
    decoding. With `plain` neither of the two counts: an option that is missing means greedy decoding.

    `temperature` 0 is greedy. `top_k` keeps that many of the likeliest ids, `top_p` the likeliest that make up this
    share of the probability, `min_p` those at least this share as likely as the likeliest.

    `repetition_penalty` (1 is off) makes every id of the prompt and of the answer so far less likely: a logit above 0
    is divided by it, one below multiplied. `presence_penalty` (0 is off) is taken off the logits of ids that the answer
    has so far, `frequency_penalty` for each time that it has them: all of the answer counts, not a window, and not the
    prompt. `logit_bias` maps ids to what is added to their logits, and `banned_ids` are never chosen. With `logprobs`
    each token of the answer comes with its log-probability, and with those of so many likeliest ids, 0 to 20; they are
    those of the unchanged logits.

    The same `seed`, any whole number, gives the same ids; without one each call draws its own. With `reuse` false the
    request neither uses keys and values that are kept of earlier requests, nor leaves its own for later ones.

    `stop` is a text, or a list of up to 16 texts of 1 to 256 characters: an answer ends where its text has one of them,
    and its text is what stands before. They are compared as exact code points, with the text as `Tokenizer.decode`
    shows it. They come beside the model's own stop ids and stop strings. One that is the text of a special token, as
    "<|eot_id|>", also means that token.

    `window` forgets all but so many of the last tokens (16 at least, at most the context) while it goes on, and so
    bounds the memory of a long answer. It is a window, not unlimited context: what lies further back is lost, and a
    model that was not trained with it writes worse. With it, prompt and answer together may be longer than the context.
    The first 4 tokens are seen, too, by all tokens within the context. `kv_bits` 8 stores keys and values in about
    half the memory, with nearly equal results; "k8v4" (values in 4 bits) and 4 in less, and less exactly. It saves
    memory, not time.

    With `lookup` ids are proposed that followed the same ids earlier in the prompt or the answer, instead of a draft's:
    for answers that copy. The answer stays the same. Nothing is proposed while other requests run.

    `adapter` is the name of an adapter that `LanguageModel.load_adapter` has loaded: the model answers with it.
    Requests with different adapters, and without one, are answered together.

    One of `schema` (a JSON schema as a dict or text, a dataclass, or a pydantic model's class), `regex`, `choices`
    (texts), `grammar` (in Lark's notation) and `response_format` (OpenAI's object) gives the form that the answer must
    have, which is enforced, or refused with the reason; `parsed` of the completion is the answer's value. It needs the
    extra `structure`.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    banned_ids: Sequence[int] | None
    seed: int | None
    reuse: bool | None
    logprobs: int | None
    stop: str | Sequence[str] | None
    window: int | None
    kv_bits: int | str | None
    lookup: bool | None
    plain: bool | None
    response_format: Mapping[str, Any] | None
    schema: Any
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None
    adapter: str | None


def check_names(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option that does not exist, as Python does for arguments."""
    for name in options:
        if name not in Options.__annotations__:
            near = get_close_matches(name, Options.__annotations__, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(Options.__annotations__)}."
            raise TypeError(f"There is no option {name!r}; {hint}")


def check_others(options: Options) -> None:
    """Raises InvalidRequest for options beside those of sampling that have no meaning."""
    if (seed := options.get("seed")) is not None:
        whole_number("seed", seed)
    if not isinstance(reuse := options.get("reuse"), bool | None):
        raise InvalidRequest(f"reuse is {shown(reuse)}; it must be true or false.")
    if not isinstance(lookup := options.get("lookup"), bool | None):
        raise InvalidRequest(f"lookup is {shown(lookup)}; it must be true or false.")
    if (most := options.get("logprobs")) is not None:
        check_alternatives(most)
    check_cache_options(options)
    check_stop_strings(options.get("stop"))
    if not isinstance(plain := options.get("plain"), bool | None):
        raise InvalidRequest(f"plain is {shown(plain)}; it must be true or false.")


def check_alternatives(most: object) -> int:
    """How many likeliest ids come with each log-probability. Raises InvalidRequest."""
    if not 0 <= (number := whole_number("logprobs", most)) <= MOST_ALTERNATIVES:
        raise InvalidRequest(f"logprobs is {number}; it must be 0 to {MOST_ALTERNATIVES}, the number of alternatives.")
    return number


def sampling_for(own: Sampling, options: Options) -> Sampling:
    """The model's own sampling, or with `plain` greedy decoding, in which the caller's options replace the values of
    the same names.

    Raises InvalidRequest for values without a meaning, and for filters of the caller's without a temperature where the
    model is greedy by default, or made so by `plain`; TypeError for an option that does not exist.
    """
    check_names(options)
    check_others(options)
    own = Sampling() if (plain := options.get("plain")) else own
    given = {name: value for name, value in options.items() if name in SAMPLING_NAMES and value is not None}
    given |= ids_given(options)
    sampling = replace(own, **given)  # type: ignore[arg-type]
    useless = [name for name in sampling.filters if name in given]
    if useless and "temperature" not in given and sampling.is_greedy:
        why = "without a temperature plain decoding is greedy" if plain else "this model is greedy by default"
        raise InvalidRequest(
            f"{' and '.join(useless)} would change nothing: {why}.",
            f"Give a {{temperature}}, or leave {' and '.join(f'{{{name}}}' for name in useless)} out"
            f"{', or {plain}' if plain else ''}.",
        )
    return sampling


def ids_given(options: Options) -> dict[str, tuple[Any, ...]]:
    """The fields of a Sampling that name ids, as the caller gives them. Raises InvalidRequest for what names none."""
    found: dict[str, tuple[Any, ...]] = {}
    if (biases := options.get("logit_bias")) is not None:
        found["logit_bias"] = tuple(biases_by_id(biases).items())
    if (banned := options.get("banned_ids")) is not None:
        if isinstance(banned, str | bytes | Mapping) or not isinstance(banned, Iterable):
            raise InvalidRequest(f"banned_ids is {shown(banned)}; it must be a list of token ids.")
        found["banned"] = tuple(whole_number("An id in banned_ids", id) for id in banned)
    return found


def check_ids(sampling: Sampling, options: Options, vocabulary: int) -> None:
    """Raises InvalidRequest where the caller names ids that a model's vocabulary does not have, or where no id is left
    to choose."""
    given = ids_given(options)
    named = {"logit_bias": [id for id, _ in given.get("logit_bias", ())], "banned_ids": given.get("banned", ())}
    for name, ids in named.items():
        if beyond := [id for id in ids if not 0 <= id < vocabulary]:
            raise InvalidRequest(f"{name} names the id {beyond[0]}; the model has 0 to {vocabulary - 1}.",
                                 f"Leave it out of {{{name}}}.")  # fmt: skip
    if len(sampling.banned) >= vocabulary and len({id for id in sampling.banned if id < vocabulary}) == vocabulary:
        raise InvalidRequest("All ids of the vocabulary are banned, so there is none to choose.",
                             "Give fewer {banned_ids}.")  # fmt: skip
