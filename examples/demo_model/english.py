"""The inflections that the stories need: past tense, -ing form, plural, article. Of a verb phrase, the first word is
inflected."""

from __future__ import annotations

import re

PAST = {
    "tear": "tore", "split": "split", "lose": "lost", "get": "got", "come": "came", "spring": "sprang",
    "fall": "fell", "bend": "bent", "burst": "burst", "go": "went", "wear": "wore", "bind": "bound", "hang": "hung",
    "set": "set",    "knit": "knitted", "sew": "sewed", "weave": "wove", "light": "lit", "sing": "sang", "tell": "told",
    "read": "read", "build": "built", "catch": "caught", "draw": "drew", "dance": "danced", "write": "wrote",
    "fly": "flew", "feed": "fed", "sweep": "swept", "swim": "swam", "keep": "kept", "grow": "grew", "ring": "rang",
    "dig": "dug", "make": "made", "ride": "rode", "spin": "spun", "teach": "taught", "beat": "beat", "run": "ran",
    "say": "said", "weep": "wept", "slide": "slid", "sink": "sank", "dive": "dived", "swing": "swung",
    "slink": "slunk", "creep": "crept", "stride": "strode", "tread": "trod", "shine": "shone", "blow": "blew",
    "lead": "led", "wind": "wound", "drink": "drank", "throw": "threw", "hold": "held", "ski": "skied",
    "leap": "leaped", "hide": "hid", "steal": "stole", "give": "gave", "find": "found", "take": "took",
    "think": "thought", "sleep": "slept", "sit": "sat", "stand": "stood", "know": "knew", "admit": "admitted",
    "restring": "restrung", "relight": "relit", "rehang": "rehung", "unravel": "unravelled", "pedal": "pedalled",
    "yodel": "yodelled", "see": "saw",
}  # fmt: skip
SILENT_E_KEPT = ("ee", "oe", "ye")
TWO_SYLLABLES = re.compile(r"[aeiou][^aeiou]+[aeiouy]")
PLURALS = {"mouse": "mice", "goose": "geese", "leaf": "leaves", "sheep": "sheep", "deer": "deer", "wolf": "wolves"}
SOUNDS_LIKE_A_CONSONANT = re.compile(r"(?i)(uni|use|one|eu|ewe)")


def bend(phrase: str, ending: str) -> str:
    first, space, rest = phrase.partition(" ")
    return inflect(first, ending) + space + rest


def inflect(verb: str, ending: str) -> str:
    """A regular verb with the ending "ed" or "ing": hop, hopping; carry, carried; bake, baked; visit, visited."""
    if verb.endswith("ie") and ending == "ing":
        return verb[:-2] + "ying"
    if verb.endswith("e") and not (ending == "ing" and verb.endswith(SILENT_E_KEPT)):
        return verb[:-1] + ending
    if verb.endswith("y") and verb[-2] not in "aeiou" and ending == "ed":
        return verb[:-1] + "ied"
    doubles = re.search(r"[^aeiou][aeiou][^aeiouwxy]$", verb) and not TWO_SYLLABLES.search(verb)
    return verb + (verb[-1] if doubles else "") + ending


def past(phrase: str) -> str:
    first, space, rest = phrase.partition(" ")
    rest = rest.replace("and say", "and said")  # "smile and say"
    return PAST.get(first, inflect(first, "ed")) + space + rest


def ing(phrase: str) -> str:
    return bend(phrase, "ing")


def plural(noun: str) -> str:
    *before, last = noun.split(" ")
    if last in PLURALS:
        bent = PLURALS[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        bent = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        bent = last[:-1] + "ies"
    else:
        bent = last + "s"
    return " ".join([*before, bent])


def article(following: str) -> str:
    vowel = following[0] in "aeiouAEIOU" and not SOUNDS_LIKE_A_CONSONANT.match(following)
    return "an" if vowel or following.startswith(("hour", "honest")) else "a"
