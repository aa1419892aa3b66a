"""What each field of a request to OpenAI's Responses API does here."""

from __future__ import annotations

from elm_mlx.protocols.known import Known, Lacking

STORED = Lacking("nothing is stored, so there is nothing to go on from; send the whole conversation in input")
BUILT_IN = "There are no built-in tools."

TABLE = Known(
    enforced={
        "model": "The model's name.",
        "input": "A text, or a list of items: messages, function calls and their outputs, reasoning. Images, sounds "
        "and files are refused. Items of other kinds are left out and reported.",
        "instructions": "A system message before all others. System and developer messages that follow it at once are "
        "joined with it.",
        "tools": "Functions. Tools of other kinds are left out and reported.",
        "tool_choice": "auto, none, required, a function, or allowed_tools. With required, or a function, the answer "
        "is held to a call.",
        "parallel_tool_calls": "False: an answer calls one function at most.",
        "text": "format is text, json_object or json_schema, and is enforced. verbosity has no effect.",
        "max_output_tokens": "The most tokens of the answer, reasoning included. Without it, as many as the context "
        "has room for.",
        "temperature": "0 to 2.",
        "top_p": "0 to 1; 0 takes the likeliest token.",
        "top_logprobs": "0 to 20: the log-probabilities of this many likeliest tokens, and of the answer's own.",
        "include": "message.output_text.logprobs gives log-probabilities. The other values name what an answer of "
        "elm-mlx never has.",
        "stream": "True: the answer comes as events.",
        "metadata": "Up to 16 texts by names; they come back in the response.",
        "seed": "A whole number; not OpenAI's. Equal seeds give equal answers.",
        "stop": "A text or several; not OpenAI's. The answer ends before the first of them.",
        "top_k": "0 (off) or more; not OpenAI's.",
        "min_p": "0 (off) to 1; not OpenAI's.",
        "repetition_penalty": "Above 0, 1 is off; not OpenAI's.",
        "presence_penalty": "-2 to 2; not OpenAI's.",
        "frequency_penalty": "-2 to 2; not OpenAI's.",
    },
    harmless={
        "store": "Nothing is ever stored. The response says so.",
        "truncation": "Nothing is cut off: a prompt that is too long is refused with both values.",
        "reasoning": "How long a model reasons is its own choice, and its reasoning is shown as it is.",
        "stream_options": "Events are never padded.",
        "max_tool_calls": BUILT_IN,
        "context_management": "Nothing is compacted: a prompt that is too long is refused.",
        "prompt_cache_key": "Prompts that begin alike are found by their tokens.",
        "prompt_cache_options": "Prompts that begin alike are found by their tokens.",
        "prompt_cache_retention": "Prompts that begin alike are kept as long as there is memory for them.",
        "service_tier": "All requests are served alike.",
        "safety_identifier": "It names the client's user to OpenAI.",
        "user": "It names the client's user to OpenAI.",
        "client_metadata": "It describes the client, which changes no answer.",
        "moderation": "elm-mlx moderates nothing.",
    },
    lacking={
        "previous_response_id": STORED,
        "conversation": STORED,
        "background": Lacking("an answer is given while the client waits", (False,)),
        "prompt": Lacking("it names a prompt that OpenAI stores; write the prompt in input"),
        "max_tokens": Lacking("give max_output_tokens"),
        "max_completion_tokens": Lacking("give max_output_tokens"),
        "response_format": Lacking("give text, with a format"),
        "logprobs": Lacking("give top_logprobs", (False,)),
        "logit_bias": Lacking("/v1/chat/completions takes it", ({},)),
        "n": Lacking("a response has one answer; /v1/chat/completions gives several", (1,)),
    },
)
