"""What each field of a request to OpenAI's chat completions and completions does here. docs/server-fields.md shows
these tables."""

from __future__ import annotations

from elm_mlx.protocols.known import Known, Lacking

SHARED: dict[str, str] = {
    "model": 'a name from /v1/models; absent, "default" or "default_model" for the loaded model',
    "temperature": "0 (the likeliest token) to 2; absent: the model's own",
    "top_p": "0 (the likeliest token) to 1",
    "presence_penalty": "-2 to 2",
    "frequency_penalty": "-2 to 2",
    "logit_bias": "an object: a number from -100 to 100 for each id, which is written as a text",
    "seed": "any whole number; 0 is one",
    "stop": "a text, or up to 16 of them; compared with the answer's text, never part of it",
    "n": "1 to 8",
    "stream": "events instead of one object",
    "stream_options": "`include_usage`; `include_obfuscation` has no effect; without `stream`, neither has one",
    "top_k": "as vLLM has it: -1 or 0 is off",
    "min_p": "0 (off) to 1",
    "repetition_penalty": "0.01 to 100, 1 is off",
    "cache_prompt": "false: this request reuses nothing that was read before, and nothing of it is kept (llama.cpp)",
    "response_format": "text, json_object or json_schema, enforced; json_object may have a `schema`",
    "structured_outputs": "vLLM's object: one of json, regex, choice, grammar",
    "guided_json": "a schema, enforced (vLLM's older name)",
    "guided_regex": "a regular expression, enforced",
    "guided_choice": "a list of texts, of which the answer is one",
    "guided_grammar": "a grammar in Lark's notation, enforced",
    "json_schema": "a schema, enforced (llama.cpp)",
    "banned_ids": "ids that are never chosen (elm-mlx)",
    "window": "forget all but this many of the last tokens (elm-mlx)",
    "kv_bits": '8, 4 or "k8v4": bits in which keys and values are held (elm-mlx)',
    "lookup": "true: speculation that proposes ids from the text so far (elm-mlx)",
}
CHAT: dict[str, str] = SHARED | {
    "messages": "one or more; if the last one is the assistant's, the answer continues it",
    "max_tokens": "1 or more; absent or -1: as many as the context has room for",
    "max_completion_tokens": "the newer name of max_tokens",
    "logprobs": "true or false",
    "top_logprobs": "0 to 20, with logprobs",
    "tools": "functions, as JSON schemas",
    "tool_choice": "auto, none, required, a function by its name, or allowed_tools",
    "parallel_tool_calls": "false: an answer calls one function at most",
    "chat_template_kwargs": "variables of the chat template",
    "continue_final_message": "false: after a last message of the assistant a new turn begins (vLLM)",
    "add_generation_prompt": "true: the same as continue_final_message false (vLLM)",
}
TEXT: dict[str, str] = SHARED | {
    "prompt": "a text, a list of texts, a list of ids, or a list of such lists; the model reads it as it is",
    "max_tokens": "1 or more; absent: 16, as OpenAI has it; -1: as many as the context has room for",
    "logprobs": "0 to 5",
    "echo": "true: the text begins with the prompt; with logprobs, those of the prompt come, too",
    "best_of": "1, or equal to n",
}

# Fields that change no answer here -> why clients send them. Their values are not looked at.
HARMLESS: dict[str, str] = {
    "user": "names the client's user to OpenAI",
    "metadata": "notes for OpenAI's store",
    "store": "nothing is stored",
    "service_tier": "all requests are served alike",
    "safety_identifier": "names the client's user to OpenAI",
    "prompt_cache_key": "prompts that begin alike are found by their tokens",
    "prompt_cache_options": "as prompt_cache_key",
    "prompt_cache_retention": "as prompt_cache_key",
    "moderation": "elm-mlx moderates nothing",
    "prediction": "it changes only the speed",
    "reasoning_effort": "no model that runs here has levels of effort",
    "verbosity": "no model that runs here has levels of verbosity",
    "guided_decoding_backend": "names a library that vLLM uses",
    "priority": "all requests wait in one queue",
}
CHAT_HARMLESS = HARMLESS
TEXT_HARMLESS = HARMLESS | {"parallel_tool_calls": "there are no tools in a completion"}

SAMPLER = "elm-mlx has no such sampler"
LACKING: dict[str, Lacking] = {
    "stop_token_ids": Lacking("give the texts of these tokens as stop", ([],)),
    "ignore_eos": Lacking("an answer ends where the model ends it", (False,)),
    "min_tokens": Lacking("an answer ends where the model ends it", (0,)),
    "include_stop_str_in_output": Lacking("an answer ends before a stop string", (False,)),
    "skip_special_tokens": Lacking("special tokens are never in the text of an answer", (True,)),
    "bad_words": Lacking("give ids as banned_ids", ([],)),
    "use_beam_search": Lacking(SAMPLER, (False,)),
    "length_penalty": Lacking(SAMPLER, (1,)),
    "typical_p": Lacking(SAMPLER, (1,)),
    "mirostat": Lacking(SAMPLER, (0,)),
    "dry_multiplier": Lacking(SAMPLER, (0,)),
    "xtc_probability": Lacking(SAMPLER, (0,)),
    "dynatemp_range": Lacking(SAMPLER, (0,)),
    "grammar": Lacking("its notation is llama.cpp's; give guided_grammar, in Lark's", ("",)),
    "guided_whitespace_pattern": Lacking("JSON is always written without blanks"),
    "prompt_logprobs": Lacking("give echo and logprobs to /v1/completions", (False,)),
    "truncate_prompt_tokens": Lacking("a prompt is never cut; give a window"),
    "return_tokens_as_token_ids": Lacking("tokens are shown as their texts", (False,)),
    "chat_template": Lacking("a template comes with the model, never with a request"),
}
CHAT_LACKING = LACKING | {
    "functions": Lacking("give tools instead", ([],)),
    "function_call": Lacking("give tool_choice instead", ("none", "auto")),
    "audio": Lacking("answers are text"),
    "modalities": Lacking("answers are text", (["text"],)),
    "web_search_options": Lacking("elm-mlx asks no network"),
    "echo": Lacking("the answer of a chat never repeats the prompt", (False,)),
    "best_of": Lacking("give n", (1,)),
    "documents": Lacking("put them into messages", ([],)),
    "prompt": Lacking("a chat has messages; /v1/completions takes a prompt"),
    "suffix": Lacking("a chat has no suffix", ("",)),
}
TEXT_LACKING = LACKING | {
    "suffix": Lacking("no model that runs here fills in a middle", ("",)),
    "messages": Lacking("a completion has a prompt; /v1/chat/completions takes messages"),
    "tools": Lacking("a completion has no tools; /v1/chat/completions takes them", ([],)),
    "tool_choice": Lacking("a completion has no tools", ("none", "auto")),
    "top_logprobs": Lacking("give the number as logprobs", (0,)),
    "max_completion_tokens": Lacking("give max_tokens"),
    "add_special_tokens": Lacking("give ids, which are taken as they are", (True,)),
}


CHAT_FIELDS = Known(CHAT, CHAT_HARMLESS, CHAT_LACKING)
TEXT_FIELDS = Known(TEXT, TEXT_HARMLESS, TEXT_LACKING)
