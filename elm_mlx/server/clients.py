"""The settings of each client, by its name."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from elm_mlx.server.advice import KEY, NO_KEY, Advice, Block, Make, Place, Served, context_notes, quoted
from elm_mlx.shell import command_line


def exports(place: Place, **values: str) -> str:
    """Lines for a shell that set variables; a value of KEY is that variable's own."""
    lines = (f'export {name}="${KEY}"' if value == KEY else f"export {command_line(f'{name}={value}')}"
             for name, value in values.items())  # fmt: skip
    return "\n".join(lines)


def key_of(place: Place) -> str:
    """What stands for the key in `exports`."""
    return KEY if place.needs_key else NO_KEY


def codex(place: Place) -> Advice:
    """Codex: it speaks the Responses API alone."""
    head = [f"model = {quoted(place.first.name)}", 'model_provider = "elm-mlx"']
    head += [f"model_context_window = {place.context}"] if place.context else []
    provider = ["[model_providers.elm-mlx]", 'name = "elm-mlx"', f"base_url = {quoted(place.api)}",
                'wire_api = "responses"', *([f'env_key = "{KEY}"'] if place.needs_key else [])]  # fmt: skip
    where = "~/.codex/config.toml: the first lines stand before any [table]"
    notes = ["A warning about missing metadata of the model means nothing.", *context_notes(place, what="Codex")]
    return Advice([Block(where, "\n".join([*head, "", *provider]), "toml")], notes)


def claude_code(place: Place) -> Advice:
    """Claude Code: it speaks Anthropic's API."""
    name = place.first.name
    text = exports(place, ANTHROPIC_BASE_URL=place.url, ANTHROPIC_AUTH_TOKEN=key_of(place),
                   ANTHROPIC_DEFAULT_OPUS_MODEL=name, ANTHROPIC_DEFAULT_SONNET_MODEL=name,
                   ANTHROPIC_DEFAULT_HAIKU_MODEL=name, CLAUDE_CODE_ATTRIBUTION_HEADER="0")  # fmt: skip
    notes = ["The last line keeps a text out of the prompt that changes with every request, so that what was read of "
             "it can be used again.", *context_notes(place, what="Claude Code")]  # fmt: skip
    return Advice([Block("The shell in which you then run: claude", text, "shell")], notes)


def xcode(place: Place) -> Advice:
    """Xcode: settings that are typed into a window."""
    if place.needs_key:
        lines = ["Internet Hosted", f"URL: {place.url}", f"API Key: the value of {KEY}", "API Key Header: x-api-key"]
    else:
        lines = ["Locally Hosted", f"Port: {urlsplit(place.url).port or 80}"]
    where = "Xcode 26.3 or later: Settings > Intelligence > Add a Model Provider"
    return Advice([Block(where, "\n".join(lines), "text")],
                  ["Xcode asks the server for the names of the models by itself."])  # fmt: skip


def continue_dev(place: Place) -> Advice:
    """Continue: an extension of editors."""
    head = ["name: elm-mlx", "version: 1.0.0", "schema: v1", "models:"]
    text = "\n".join([*head, *(continue_model(place, one) for one in place.models)])
    notes = [f"Continue reads {KEY} from ~/.continue/.env."] if place.needs_key else []
    return Advice([Block("~/.continue/config.yaml", text, "yaml")], notes)


def continue_model(place: Place, model: Served) -> str:
    """One model of Continue's list. Its editor asks a model without a chat template to complete text."""
    key = f"${{{{ secrets.{KEY} }}}}" if place.needs_key else NO_KEY
    lines = [f"  - name: {quoted(model.name)}", "    provider: openai", f"    model: {quoted(model.name)}",
             f"    apiBase: {quoted(place.api)}", f"    apiKey: {key}"]  # fmt: skip
    lines += [] if model.chats else ["    useLegacyCompletionsEndpoint: true"]
    lines += [f"    defaultCompletionOptions:\n      contextLength: {model.context}"] if model.context else []
    return "\n".join(lines)


def opencode(place: Place) -> Advice:
    """opencode: a provider in its settings, with what each model can do."""
    models = {one.name: {"name": one.name, "tool_call": one.chats, **opencode_limit(one)} for one in place.models}
    key = f"{{env:{KEY}}}" if place.needs_key else NO_KEY
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "elm-mlx",
                "options": {"baseURL": place.api, "apiKey": key}, "models": models}  # fmt: skip
    text = written({"model": f"elm-mlx/{place.first.name}", "provider": {"elm-mlx": provider}})
    return Advice([Block("~/.config/opencode/opencode.json: add this to what is there", text, "json")],
                  context_notes(place, what="opencode"))  # fmt: skip


def opencode_limit(model: Served) -> dict[str, object]:
    """The sizes of a model in tokens, where they are known; opencode asks for answers of at most `output`."""
    if not model.context:
        return {}
    return {"limit": {"context": model.context, "output": min(4096, model.context // 4)}}


def aider(place: Place) -> Advice:
    """aider: variables, a file with the contexts, and a command."""
    known = {f"openai/{one.name}": {"max_input_tokens": one.context, "max_output_tokens": one.context,
                                    "litellm_provider": "openai", "mode": "chat"}
             for one in place.models if one.context}  # fmt: skip
    variables = exports(place, OPENAI_API_BASE=place.api, OPENAI_API_KEY=key_of(place))
    command = command_line("aider", "--model", f"openai/{place.first.name}")
    facts = [Block(".aider.model.metadata.json, in your home or the repository", written(known), "json")]
    return Advice([*(facts if known else []), Block("The shell", f"{variables}\n{command}", "shell")])


def open_webui(place: Place) -> Advice:
    """Open WebUI: variables, or the same in its settings."""
    text = exports(place, OPENAI_API_BASE_URL=place.api, OPENAI_API_KEY=key_of(place))
    where = "The shell in which you then run: open-webui serve (or its Admin Settings > Connections > OpenAI API)"
    docker = ("From a container the address is http://host.docker.internal with the same port and /v1; start the "
              "server with --allowed-host host.docker.internal for it.")  # fmt: skip
    return Advice([Block(where, text, "shell")], [docker])


def llm(place: Place) -> Advice:
    """The command llm: a list of models in its folder."""
    where = 'extra-openai-models.yaml in the folder that this prints: dirname "$(llm logs path)"'
    text = "\n".join(llm_model(place, one) for one in place.models)
    run = command_line("llm", "-m", place.first.name, "Once upon a time")
    keys = [Block("The shell: it asks for the key", "llm keys set elm-mlx", "shell")] if place.needs_key else []
    return Advice([Block(where, text, "yaml"), *keys, Block("Then", run, "shell")])


def llm_model(place: Place, model: Served) -> str:
    """One model of llm's list."""
    lines = [f"- model_id: {quoted(model.name)}", f"  model_name: {quoted(model.name)}",
             f"  api_base: {quoted(place.api)}"]  # fmt: skip
    lines += ["  api_key_name: elm-mlx"] if place.needs_key else []
    lines += ["  supports_schema: true", "  supports_tools: true"] if model.chats else ["  completion: true"]
    return "\n".join(lines)


def zed(place: Place) -> Advice:
    """Zed: a provider in its settings. It reads the key from a variable with the provider's name."""
    models = [{"name": one.name, "display_name": one.name, "max_tokens": one.context or 8192,
               "capabilities": {"tools": one.chats, "images": False}} for one in place.models]  # fmt: skip
    provider = {"openai_compatible": {"elm-mlx": {"api_url": place.api, "available_models": models}}}
    text = written({"language_models": provider})
    return Advice([Block("~/.config/zed/settings.json: add this to what is there", text, "json")],
                  [f"Zed wants {KEY} to be set where it starts, or a key in its own settings."])  # fmt: skip


def litellm(place: Place) -> Advice:
    """LiteLLM's proxy: a list of models."""
    key = quoted(f"os.environ/{KEY}" if place.needs_key else NO_KEY)
    models = (f"  - model_name: {quoted(one.name)}\n    litellm_params:\n      model: {quoted(f'openai/{one.name}')}\n"
              f"      api_base: {quoted(place.api)}\n      api_key: {key}" for one in place.models)  # fmt: skip
    return Advice([Block("config.yaml of its proxy", "model_list:\n" + "\n".join(models), "yaml")],
                  ["In Python: litellm.completion with the same model, api_base and api_key."])  # fmt: skip


def langchain(place: Place) -> Advice:
    """LangChain: a few lines of Python."""
    text = (f"{python_imports(place)}from langchain_openai import ChatOpenAI\n\nmodel = ChatOpenAI(\n"
            f"    model={place.first.name!r},\n    base_url={place.api!r},\n    api_key={python_key(place)},\n"
            "    stream_usage=True,\n)")  # fmt: skip
    return Advice([Block("Python, with langchain-openai", text, "python")],
                  ["Embeddings are not served: these models are decoders."])  # fmt: skip


def openai(place: Place) -> Advice:
    """OpenAI's package for Python, and whatever else reads its variables."""
    text = exports(place, OPENAI_BASE_URL=place.api, OPENAI_API_KEY=key_of(place))
    code = (f"{python_imports(place)}from openai import OpenAI\n\nclient = OpenAI(base_url={place.api!r}, "
            f"api_key={python_key(place)})")  # fmt: skip
    return Advice([Block("The shell", text, "shell"), Block("Or in Python", code, "python")],
                  [names(place)])  # fmt: skip


def anthropic(place: Place) -> Advice:
    """Anthropic's package for Python."""
    code = (f"{python_imports(place)}from anthropic import Anthropic\n\nclient = Anthropic(base_url={place.url!r}, "
            f"api_key={python_key(place)})")  # fmt: skip
    return Advice([Block("Python", code, "python")],
                  [names(place)])  # fmt: skip


def names(place: Place) -> str:
    """The names of the models, as Python writes them."""
    return f"The models: {', '.join(repr(one.name) for one in place.models)}"


def written(value: object) -> str:
    """A value as JSON that can be printed."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def python_imports(place: Place) -> str:
    """What `python_key` needs, as lines of Python."""
    return "import os\n\n" if place.needs_key else ""


def python_key(place: Place) -> str:
    """The key as an expression of Python."""
    return f'os.environ["{KEY}"]' if place.needs_key else repr(NO_KEY)


CLIENTS: dict[str, Make] = {
    "codex": codex,
    "claude-code": claude_code,
    "xcode": xcode,
    "continue": continue_dev,
    "opencode": opencode,
    "aider": aider,
    "open-webui": open_webui,
    "llm": llm,
    "zed": zed,
    "litellm": litellm,
    "langchain": langchain,
    "openai": openai,
    "anthropic": anthropic,
}
