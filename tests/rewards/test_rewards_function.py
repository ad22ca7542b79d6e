import asyncio
import math
from pathlib import Path

import numpy as np
import pytest

from italic.core.errors import RewardError, SpecError
from italic.core.prompt import Prompt
from italic.core.protocols import Reward
from italic.rewards.function import FunctionReward, load

CHAT = Prompt(id="chat", messages=({"role": "user", "content": "hi"},), columns={"answer": "4"})


def lengths(completions):
    return [float(len(c)) for c in completions]


def test_one_call_for_all_batches_in_order(write):
    calls = []

    def fn(prompts, completions):
        calls.append((prompts, completions))
        return lengths(completions)

    reward = FunctionReward(fn)
    assert isinstance(reward, Reward)
    first, second = reward.score([write("p", ["a", "bbb"]), write("q", ["cc"])])
    assert calls == [(["p", "p", "q"], ["a", "bbb", "cc"])]
    assert first.rewards.tolist() == [1, 3]
    assert second.rewards.tolist() == [2]
    assert first.rewards.dtype == np.float64
    assert not first.missing.any()
    assert reward.name == "fn"
    assert reward.score([]) == []


def test_conversations_are_message_lists_and_never_share_a_call_with_texts(write):
    seen = []

    def fn(prompts, completions, **columns):
        seen.append((prompts, completions, columns))
        return [len(seen)] * len(prompts)

    scored = FunctionReward(fn).score([write(CHAT, ["yes"]), write("p", ["no"]), write(CHAT, ["so"])])
    assert [s.rewards.tolist() for s in scored] == [[2], [1], [2]]
    chats = [[{"role": "user", "content": "hi"}]] * 2
    replies = [[{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "so"}]]
    assert seen[1] == (chats, replies, {"answer": ["4", "4"], "completion_ids": [[121, 101, 115], [115, 111]]})


def test_columns_are_repeated_and_passed_by_signature(write):
    prompt = Prompt(id="a", text="1+1", columns={"answer": 2, "unused": 0})

    def fn(completions, answer, completion_ids, weight=1.0):
        assert completion_ids == [[50], [51]]
        return [weight * (c == str(a)) for c, a in zip(completions, answer, strict=True)]

    assert FunctionReward(fn).score([write(prompt, ["2", "3"])])[0].rewards.tolist() == [1, 0]
    with pytest.raises(RewardError, match="needs answer") as error:
        FunctionReward(fn).score([write("plain", ["2"])])
    assert "default" in error.value.hint


def test_columns_absent_from_some_prompts_are_none_and_do_not_hide_the_completions(write):
    prompt = Prompt(id="a", text="1+1", columns={"answer": 2, "completions": "mine"})
    got = {}

    def fn(**arguments):
        got.update(arguments)
        return [0.0] * 2

    FunctionReward(fn).score([write(prompt, ["2"]), write("p", ["3"])])
    assert got["answer"] == [2, None]
    assert got["completions"] == ["2", "3"]


def test_none_is_missing_and_infinity_is_a_score(write):
    reward = FunctionReward(lambda completions: [None, math.inf, -math.inf, True, np.float32(0.5)])
    scored = reward.score([write("p", list("abcde"))])[0]
    assert scored.missing.tolist() == [True, False, False, False, False]
    assert np.isnan(scored.rewards[0])
    assert scored.rewards[1:].tolist() == [math.inf, -math.inf, 1, 0.5]


def test_arrays_are_lists(write):
    assert FunctionReward(lambda completions: np.ones(2)).score([write("p", ["a", "b"])])[0].rewards.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.0, math.nan], "NaN for prompt 'q'"),
        ([0.0], "1 scores for 2 completions"),
        ([0.0, 1.0, 2.0], "3 scores for 2 completions"),
        ([0.0, "1"], "a str for prompt 'q', not a number"),
        (0.0, "a float, not a list"),
        ("ab", "a str, not a list"),
        (None, "None, not a list"),
    ],
)
def test_what_is_no_reward_is_an_error(write, answer, message):
    with pytest.raises(RewardError, match=message):
        FunctionReward(lambda completions: answer).score([write("p", ["a"]), write("q", ["b"])])


def test_exceptions_are_translated(write):
    def fn(completions):
        raise KeyError("gone")

    with pytest.raises(RewardError, match=r"fn failed: KeyError: 'gone'") as error:
        FunctionReward(fn).score([write("p", ["a"])])
    assert isinstance(error.value.__cause__, KeyError)


async def slowly(completions):
    await asyncio.sleep(0)
    return lengths(completions)


def test_coroutine_functions_run_with_and_without_a_loop(write):
    reward = FunctionReward(slowly)
    assert reward.score([write("p", ["abc"])])[0].rewards.tolist() == [3]

    async def inside():
        return reward.score([write("p", ["abcd"])])[0].rewards.tolist()

    assert asyncio.run(inside()) == [4]


def test_callable_objects(write):
    class Ruler:
        def __call__(self, completions):
            return lengths(completions)

    reward = FunctionReward(Ruler(), "ruler", partial=True, deterministic=False)
    assert (reward.name, reward.partial, reward.deterministic) == ("ruler", True, False)
    assert reward.score([write("p", ["ab"])])[0].rewards.tolist() == [2]
    assert FunctionReward(max).name == "max"


def test_load_from_a_file_and_a_module(write, tmp_path: Path):
    file = tmp_path / "my_rewards_4711.py"
    file.write_text("def one(completions):\n    return [1.0] * len(completions)\nnumber = 3\n")
    reward = load(f"{file}:one", partial=True)
    assert (reward.name, reward.partial) == ("one", True)
    assert reward.score([write("p", ["a"])])[0].rewards.tolist() == [1]
    assert load("builtins:max", name="largest").name == "largest"
    with pytest.raises(SpecError, match="has nothing under the name two") as error:
        load(f"{file}:two")
    assert "It has one." in error.value.hint
    with pytest.raises(SpecError, match="has a int, not a function"):
        load(f"{file}:number")


def test_load_says_what_is_wrong(tmp_path: Path):
    broken = tmp_path / "broken_4711.py"
    broken.write_text("import nothing_of_this_name\n")
    with pytest.raises(SpecError, match="names no function"):
        load("length")
    with pytest.raises(SpecError, match="names no function"):
        load("file.py:")
    with pytest.raises(SpecError, match="there is no file"):
        load(f"{tmp_path}/absent.py:f")
    with pytest.raises(SpecError, match="ModuleNotFoundError"):
        load(f"{broken}:f")
    with pytest.raises(SpecError, match="importing nothing_of_this_name failed") as error:
        load("nothing_of_this_name:f")
    assert "nothing_of_this_name.py" in error.value.hint
