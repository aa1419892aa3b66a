"""What each field of a request to Anthropic's Messages API does here."""

from __future__ import annotations

from elm_mlx.protocols.known import Known, Lacking

TABLE = Known(
    enforced={
        "model": "The model's name.",
        "messages": "Their content is a text or blocks: text, thinking, tool_use, tool_result. Images and documents "
        "are refused. Blocks of other kinds are left out and reported. If the last message is the assistant's, the "
        "answer goes on from it.",
        "system": "A text or blocks of text. Lines that begin with x-anthropic-billing-header are left out: they "
        "differ in every request, so no prompt would begin like the one before.",
        "max_tokens": "The most tokens of the answer; it must be given, except to count_tokens.",
        "stop_sequences": "The answer ends before the first of these texts; stop_sequence in the response says which.",
        "temperature": "0 to 1.",
        "top_p": "0 to 1; 0 takes the likeliest token.",
        "top_k": "0 (off) or more.",
        "tools": "Tools with an input_schema. Tools of other kinds are left out and reported.",
        "tool_choice": "auto, any, tool or none. With any, or a tool, the answer is held to a call. With "
        "disable_parallel_tool_use an answer calls one tool at most.",
        "thinking": "With the type disabled the answer shows no thinking. How long a model thinks is its own choice.",
        "output_config": "format is json_schema, and is enforced. effort has no effect.",
        "output_format": "The older place of the format in output_config.",
        "stream": "True: the answer comes as events.",
        "seed": "A whole number; not Anthropic's. Equal seeds give equal answers.",
        "min_p": "0 (off) to 1; not Anthropic's.",
        "repetition_penalty": "Above 0, 1 is off; not Anthropic's.",
        "presence_penalty": "-2 to 2; not Anthropic's.",
        "frequency_penalty": "-2 to 2; not Anthropic's.",
    },
    harmless={
        "metadata": "It names the client's user to Anthropic.",
        "cache_control": "Prompts that begin alike are found by their tokens, in blocks and tools too.",
        "context_management": "Nothing is cleared: a prompt that is too long is refused.",
        "service_tier": "All requests are served alike.",
        "speed": "Every answer comes as fast as it can.",
        "inference_geo": "Every answer is computed on this machine.",
        "diagnostics": "elm-mlx sends no diagnostics.",
        "user_profile_id": "It names the client's user to Anthropic.",
        "workspace_id": "elm-mlx has no workspaces.",
    },
    lacking={
        "container": Lacking("elm-mlx runs no code for a model"),
        "mcp_servers": Lacking("elm-mlx asks no other servers", ([],)),
        "stop": Lacking("give stop_sequences", ([],)),
        "max_completion_tokens": Lacking("give max_tokens"),
        "response_format": Lacking("give output_config, with a format"),
        "logprobs": Lacking("/v1/chat/completions gives them", (False,)),
        "logit_bias": Lacking("/v1/chat/completions takes it", ({},)),
        "n": Lacking("a response has one answer; /v1/chat/completions gives several", (1,)),
    },
)
