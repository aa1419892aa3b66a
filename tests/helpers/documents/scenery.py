"""What a reader of a page has: models on the hub, and the things that a block says are given, all of them tiny."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from helpers import adapters, checkpoints, guests, hub_uploads, relatives
from helpers.fake_hub import FakeHub

from elm_mlx.library.names import TOKENIZER_MIRRORS, known_models

CHAT = (
    "{% for tool in tools or [] %}[tool]{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}\n{% endfor %}[assistant]"
)
CARD = b"---\nlicense: other\nlicense_name: apple-amlr\nlicense_link: LICENSE\n---\nA model.\n"
TOKEN = "hf_you"  # the reader's, who has accepted all licences
TEXTS = ["The fox and the bear went to the river.\n", "A dog sat on the mat.\n", "The moon was over the garden.\n"]
CONTEXT = 2048  # tokens, as OpenELM has them


assert hub_uploads.ROUTES  # with which readers push models


class Scenery:
    """Tiny models in one folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cache  # noqa: B019, as there is one a process
    def apple(self) -> Path:
        """OpenELM as Apple publishes it, without a tokenizer."""
        raw = checkpoints.OPENELM | {"max_context_length": CONTEXT, "rope_max_length": 2 * CONTEXT}
        return checkpoints.write(self.folder / "OpenELM", raw, tokenizer=False)

    @cache  # noqa: B019
    def llama(self) -> Path:
        """Llama 3.2 as Meta publishes it, with a chat template."""
        raw = checkpoints.CONFIGS["llama-3.2"] | {"max_position_embeddings": CONTEXT}
        return with_chat(checkpoints.write(self.folder / "Llama", raw, dtype=mx.bfloat16))

    @cache  # noqa: B019
    def ready(self) -> Path:
        """The same in 4 bits, as mlx-community publishes it."""
        from elm_mlx.convert import convert

        return convert(self.llama(), self.folder / "ready", bits=4, group_size=32).output

    @cache  # noqa: B019
    def guest(self, bits: int | None) -> Path:
        """A Qwen 3."""
        return with_chat(guests.write_guest(self.folder / f"guest-{bits}", "qwen3", bits))

    @cache  # noqa: B019
    def tokenizer(self) -> Path:
        """A SentencePiece model of the tiny models' size."""
        import sentencepiece

        prefix = self.folder / "spm"
        words = Path(__file__).read_text(encoding="utf-8").splitlines() * 3
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words), model_prefix=str(prefix), model_type="bpe", vocab_size=400,
            byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
            remove_extra_whitespaces=False, minloglevel=2,
        )  # fmt: skip
        return prefix.with_suffix(".model")

    def publish(self, hub: FakeHub, text: str) -> None:
        """Puts those models on a hub whose names are in a text, as their publishers have them."""
        for known in known_models().values():
            if known.name in text or known.original in text or (known.ready and known.ready in text):
                files = listing(self.published(known.original)) | {"README.md": CARD}
                hub.add(known.original, files, gated=TOKEN if known.gated else False)
                if known.ready:
                    hub.add(known.ready, listing(self.ready()))
        for name, bits in {"mlx-community/Qwen3-4B-4bit": 4, "Qwen/Qwen3-4B": None}.items():
            if name in text:
                hub.add(name, listing(self.guest(bits)))
        hub.add(TOKENIZER_MIRRORS[0], {"tokenizer.model": self.tokenizer()})

    def published(self, repository: str) -> Path:
        """The directory that stands for a publisher's repository."""
        if repository.startswith("apple/"):
            return self.apple()
        if "bitnet" in repository:
            return relatives.write_bitnet(self.folder / "bitnet")
        return self.llama()


def listing(folder: Path) -> dict[str, bytes | Path]:
    """The files of a repository by name."""
    return {file.name: file for file in folder.iterdir() if file.is_file()}


def with_chat(folder: Path) -> Path:
    """Gives a directory a chat template that names roles, tools and calls."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": CHAT}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


# What blocks may be given, by the word behind `given:`. A maker gets the scenery and the place of the thing.

Maker = Callable[[Scenery, Path], Any]


def copy_of(kind: str) -> Maker:
    """A maker of a copy of one of the models."""
    return lambda scenery, place: shutil.copytree(getattr(scenery, kind)(), place, dirs_exist_ok=True)


def tokenizer(scenery: Scenery, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(scenery.tokenizer(), place)


def adapter(scenery: Scenery, place: Path) -> None:
    source = scenery.llama()
    adapters.write_sums(place, source, adapters.made_sums(source))


def converted(scenery: Scenery, place: Path) -> None:
    from elm_mlx.convert import convert

    convert(scenery.llama(), place, bits=4, group_size=32)


def corenet(scenery: Scenery, place: Path) -> None:
    raw = checkpoints.OPENELM
    checkpoints.save_torch(place, checkpoints.corenet(checkpoints.weights(raw)))


def rows(*lines: dict[str, Any]) -> Maker:
    """A maker of a file of JSON lines."""

    def make(scenery: Scenery, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    return make


def training_data(*lines: dict[str, Any]) -> Maker:
    """A maker of a folder with train.jsonl and valid.jsonl."""

    def make(scenery: Scenery, place: Path) -> None:
        rows(*lines * 4)(scenery, place / "train.jsonl")
        rows(*lines)(scenery, place / "valid.jsonl")

    return make


def text_folder(scenery: Scenery, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "text.txt").write_text("".join(TEXTS * 40), encoding="utf-8")


NEW_MACHINE = "a new machine"  # the reader's caches are empty again
FILES: dict[str, Maker] = {
    "OpenELM-270M": copy_of("apple"),
    "~/Downloads/OpenELM-270M": copy_of("apple"),
    "Llama-3.2-1B": copy_of("llama"),
    "llama-3.2-1b-mlx-4bit": converted,
    "my-model": converted,
    "tokenizer.model": tokenizer,
    "~/Downloads/llama-tokenizer/tokenizer.model": tokenizer,
    "openelm_lora_270M.pt": corenet,
    "pirate": adapter,
    "poet": adapter,
    "runs/7": adapter,
    "my_texts": text_folder,
    "requests.jsonl": rows(*({"id": text[-9:-2], "prompt": text, "stop": ["e", "a", " "]} for text in TEXTS)),
    "stories": training_data(*({"prompt": text[:9], "completion": text[9:]} for text in TEXTS)),
    "pairs": training_data(*({"prompt": "Say:", "chosen": text, "rejected": text[::-1]} for text in TEXTS)),
    "in.jsonl": rows(
        {"id": "fox", "prompt": "One day a fox", "max_tokens": 12},
        {"id": "bear", "prompt": "The bear", "max_tokens": 8, "temperature": 0.8},
        {"custom_id": "dog", "body": {"prompt": "The dog", "max_tokens": 8, "n": 2}},
    ),
}
# Names that a page's Python has without defining them.
VALUES: dict[str, str] = {
    "lm": "import elm_mlx\nlm = elm_mlx.load()",
    "elm_mlx": "import elm_mlx",
    "prompts": "prompts = ['One day a fox', 'The bear']",
    "text": "text = 'The fox saw the bear. The fox saw the bear.'",
    "instruction": "instruction = 'Once upon a time there was a fox, and he went to the river with a bear and a dog. '",
    "question": "question = 'The fox'",
    "session": (
        "session = lm.session(tools=[{'name': 'weather', 'parameters': {'type': 'object', 'properties': {}}}],\n"
        "    transcript=[{'role': 'user', 'content': 'Sun?'}, {'role': 'assistant', 'content': '', 'tool_calls': [\n"
        "    {'id': 'a', 'type': 'function', 'function': {'name': 'weather', 'arguments': '{}'}}]}])"
    ),
    "run": "def run(name, arguments):\n    return 'done'",
    "hashlib": "import hashlib, json",
}
