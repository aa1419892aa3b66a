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
        "max_tokens": "The most tokens of the answer; it has to be there. count_tokens has no use for it.",
        "stop_sequences": "The answer ends before one of these texts; stop_sequence says which.",
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
        "seed": "A whole number; not Anthropic's. The same one gives the same answer.",
        "min_p": "0 (off) to 1; not Anthropic's.",
        "repetition_penalty": "Above 0, 1 is off; not Anthropic's.",
        "presence_penalty": "-2 to 2; not Anthropic's.",
        "frequency_penalty": "-2 to 2; not Anthropic's.",
    },
    harmless={
        "metadata": "Nobody is identified.",
        "cache_control": "Prompts that begin alike are found by their tokens, in blocks and tools too.",
        "context_management": "Nothing is cleared: a prompt that is too long is refused.",
        "service_tier": "There is one tier.",
        "speed": "There is one speed.",
        "inference_geo": "The answer is made on this machine.",
        "diagnostics": "There are none.",
        "user_profile_id": "Nobody is identified.",
        "workspace_id": "There are no workspaces.",
    },
    lacking={
        "container": Lacking("no code is run"),
        "mcp_servers": Lacking("no other servers are asked", ([],)),
        "stop": Lacking("give stop_sequences", ([],)),
        "max_completion_tokens": Lacking("give max_tokens"),
        "response_format": Lacking("give output_config, with a format"),
        "logprobs": Lacking("/v1/chat/completions tells them", (False,)),
        "logit_bias": Lacking("/v1/chat/completions takes it", ({},)),
        "n": Lacking("a message is one answer", (1,)),
    },
)
