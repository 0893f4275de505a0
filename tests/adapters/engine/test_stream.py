from collections.abc import Iterator

import pytest

from provisioner.adapters.engine.stream import EngineSaid, Message, News, build, spaced, transfer


def moved(layer: str, current: int, total: int, status: str = "Downloading") -> Message:
    return {"status": status, "id": layer, "progressDetail": {"current": current, "total": total}}


def test_bytes_of_all_layers_add_up() -> None:
    messages = [
        {"status": "Pulling from x", "id": "1"},
        moved("a", 10, 100),
        moved("b", 5, 50),
        moved("a", 100, 100),
        {"status": "Download complete", "id": "a", "progressDetail": {}},
        moved("a", 7, 400, "Extracting"),
    ]
    assert [(news.done, news.total) for news in transfer(messages, 0)] == [(10, 100), (15, 150), (105, 150)]


def test_a_total_that_is_known_stays() -> None:
    assert [news.total for news in transfer([moved("a", 10, 100), moved("b", 1, 900)], 1000)] == [1000, 1000]


def test_a_push_that_sends_more_than_announced_never_shows_more_than_all() -> None:
    (news,) = transfer([moved("a", 120, 100, "Pushing")], 0)
    assert news.done == news.total == 120


def test_a_build_tells_its_steps() -> None:
    said = [{"stream": "Step 1/4 : FROM x\n"}, {"stream": "\n"}, {"stream": " ---> Running\nStep 2/4 : RUN y\n"}]
    assert list(build(said)) == [
        News("Step 1/4 : FROM x", 1, 4),
        News("---> Running", 1, 4),
        News("Step 2/4 : RUN y", 2, 4),
    ]


@pytest.mark.parametrize("follow", [build, lambda messages: transfer(messages, 0)])
def test_an_error_is_raised_with_the_last_lines_when_all_is_read(follow: object) -> None:
    read = []

    def messages() -> Iterator[Message]:
        for message in ({"stream": "E: no package\n"}, {"error": "returned 100"}, {"stream": "the end\n"}):
            read.append(message)
            yield message

    assert callable(follow)
    with pytest.raises(EngineSaid, match="returned 100"):
        list(follow(messages()))
    assert len(read) == 3


def test_a_failed_builds_last_lines_are_kept() -> None:
    lines = [{"stream": f"line {number}\n"} for number in range(40)]
    with pytest.raises(EngineSaid) as said:
        list(build([*lines, {"error": "returned 1"}]))
    assert str(said.value).splitlines()[0] == "line 20"
    assert str(said.value).splitlines()[-1] == "returned 1"


def test_news_are_spaced_and_the_first_and_last_are_never_lost() -> None:
    news = [News("", number, 9) for number in range(9)]
    assert [piece.done for piece in spaced(news, seconds=3600)] == [0, 8]
    assert list(spaced(news, seconds=0)) == news
    assert list(spaced([])) == []
