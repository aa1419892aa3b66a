"""A program for ranks of which one fails, in the way that its words name, and what all of them then have to say."""

from __future__ import annotations

import signal

from helpers.rank_runs import Ended

# Its arguments: a model, what happens, at which rank, and what else that needs.
SCRIPT = """
def main(lm, ranks):
    if sys.argv[2] == "idle":
        say("ready")
        time.sleep(100)
    for count, _ in enumerate(lm.stream("Hi", 100_000)):
        if count == 5:
            say("ready")

def late(do):
    # What a rank does in a step of a long answer.
    from elm_mlx.engine.engine import Engine
    def decode(self, plan, real=Engine._decode):
        if len(self.running[0].ids) > 5:
            do(self)
        return real(self, plan)
    Engine._decode = decode

def raises(engine):
    raise ValueError("the step broke")

def other(**facts):
    from dataclasses import replace
    real = facts_module.facts_of
    facts_module.facts_of = lambda *given: replace(real(*given), **facts)

facts_module = facts
model = sys.argv[1]
if os.environ["MLX_RANK"] == sys.argv[3]:
    match sys.argv[2]:
        case "raises": late(raises)
        case "hangs": late(lambda engine: time.sleep(100))
        case "forgets": late(lambda engine: engine.prefixes.budget.reserve(engine.limits.token_bytes))
        case "elm-mlx": other(versions={**hello.versions_here(), "elm-mlx": "0.0.1"})
        case "mlx": other(versions={**hello.versions_here(), "mlx": "0.0.1"})
        case "memory": other(needs=10**15)
        case "model": model = sys.argv[4]
        case "no model": model = sys.argv[1] + "-that-is-not-there"
        case "connecting":
            def init(do=sys.argv[4], **named):
                if do == "raises":
                    raise RuntimeError("no network")
                os.kill(os.getpid(), signal.SIGKILL if do == "killed" else signal.SIGSTOP)
            mx.distributed.init = init
        case "loading":
            from elm_mlx.api import over_ranks
            over_ranks.usual_bytes = raises
run(main, model)
"""


def alike(ended: list[Ended], sentence: str, codes: tuple[int, ...]) -> None:
    """Asserts that the processes ended with these codes, and those of 87 with this one sentence on stderr. Of those,
    one that MLX still connects is killed by its guard, which has said the sentence."""
    for one, code in zip(ended, codes, strict=True):
        assert one.code == code or (one.code, code, one.out) == (-signal.SIGKILL, 87, ""), ended
        if code == 87:
            assert one.error.startswith(f"Error: {sentence}"), one
            assert one.error.count("\n") == 1, one
