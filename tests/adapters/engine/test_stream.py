from collections.abc import Iterator

import pytest

from provisioner.adapters.engine.stream import (
    EngineError,
    Message,
    ProgressUpdate,
    build_progress,
    note_digest,
    throttle,
    transfer_progress,
)


def layer_message(layer: str, current: int, total: int, status: str = "Downloading") -> Message:
    return {"status": status, "id": layer, "progressDetail": {"current": current, "total": total}}


def test_bytes_of_all_layers_add_up() -> None:
    messages = [
        {"status": "Pulling from x", "id": "1"},
        layer_message("a", 10, 100),
        layer_message("b", 5, 50),
        layer_message("a", 100, 100, "Pulling layer fs"),  # with containerd's image store
        {"status": "Download complete", "id": "a", "progressDetail": {}},
        layer_message("a", 7, 400, "Extracting"),
    ]
    assert [(update.done, update.total) for update in transfer_progress(messages, 0)] == [
        (10, 100),
        (15, 150),
        (105, 150),
    ]


def test_a_known_total_is_kept() -> None:
    assert [
        update.total for update in transfer_progress([layer_message("a", 10, 100), layer_message("b", 1, 900)], 1000)
    ] == [1000, 1000]


def test_progress_never_exceeds_its_total() -> None:
    (update,) = transfer_progress([layer_message("a", 120, 100, "Pushing")], 0)
    assert update.done == update.total == 120


def test_a_build_reports_its_steps() -> None:
    messages = [{"stream": "Step 1/4 : FROM x\n"}, {"stream": "\n"}, {"stream": " ---> Running\nStep 2/4 : RUN y\n"}]
    assert list(build_progress(messages)) == [
        ProgressUpdate("Step 1/4 : FROM x", 1, 4),
        ProgressUpdate("---> Running", 1, 4),
        ProgressUpdate("Step 2/4 : RUN y", 2, 4),
    ]


@pytest.mark.parametrize("follow", [build_progress, lambda messages: transfer_progress(messages, 0)])
def test_an_error_is_raised_after_all_messages_are_read(follow: object) -> None:
    read = []

    def messages() -> Iterator[Message]:
        for message in ({"stream": "E: no package\n"}, {"error": "returned 100"}, {"stream": "the end\n"}):
            read.append(message)
            yield message

    assert callable(follow)
    with pytest.raises(EngineError, match="returned 100"):
        list(follow(messages()))
    assert len(read) == 3


def test_the_error_of_a_build_contains_its_last_lines() -> None:
    lines = [{"stream": f"line {number}\n"} for number in range(40)]
    with pytest.raises(EngineError) as failed:
        list(build_progress([*lines, {"error": "returned 1"}]))
    assert str(failed.value).splitlines()[0] == "line 20"
    assert str(failed.value).splitlines()[-1] == "returned 1"


def test_throttle_keeps_the_first_and_the_last_update() -> None:
    updates = [ProgressUpdate("", number, 9) for number in range(9)]
    assert [update.done for update in throttle(updates, seconds=3600)] == [0, 8]
    assert list(throttle(updates, seconds=0)) == updates
    assert list(throttle([])) == []


def test_the_digest_of_a_push_is_read_from_the_line_for_its_tag() -> None:
    digest, other = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    lines: list[Message] = [
        {"status": "The push refers to repository [registry.lab/x]"},
        {"status": f"other: digest: {other} size: 5"},
        {"status": f"1.0-abc: digest: {digest} size: 1995"},
        {"status": f"Pushed 1.0-abc: digest: {other} size: 5", "id": "a"},
        {"aux": {"Tag": "1.0-abc", "Digest": other, "Size": 1}},
    ]
    found: list[str] = []
    assert list(note_digest(lines, "1.0-abc", found)) == lines
    assert found == [digest]
