from io import StringIO

from rich.console import Console

from provisioner.console.problems import problems
from provisioner.domain.values.problem import Problem
from tests.console.screen import expected_text, render_text

DOWN = Problem("unreachable", "n1: no route to host", "nothing is known of it", "ansible n1 -m ping")


def down(name: str, what: str = "no route to host") -> tuple[str, Problem]:
    return name, Problem("unreachable", f"{name}: {what}", "nothing is known of it", f"ansible {name} -m ping")


def test_one_problem_of_one_node() -> None:
    assert render_text(problems([("n1", DOWN)])) == expected_text("""
        ╷ unreachable  n1
        │ no route to host
        │ why: nothing is known of it
        │ fix: ansible n1 -m ping
        ╵
    """)


def test_a_problem_of_many_nodes_is_shown_once() -> None:
    found = [down(f"pc{number:03}") for number in range(1, 101)]
    assert render_text(problems(found)) == expected_text("""
        ╷ unreachable  pc[001-100]
        │ no route to host
        │ why: nothing is known of it
        │ fix: ansible NODE -m ping
        ╵
    """)


def test_different_observations_are_shown_by_node_up_to_a_limit() -> None:
    found = [down("n1"), down("n2"), *(down(f"m{number}", f"port {number}0 of m{number}") for number in range(1, 12))]
    assert render_text(problems(found)) == expected_text("""
        ╷ unreachable  n[1-2] m[1-11]
        │ n[1-2]: no route to host
        │ m1: port 10 of m1
        │ m2: port 20 of m2
        │ m3: port 30 of m3
        │ m4: port 40 of m4
        │ m5: port 50 of m5
        │ m6: port 60 of m6
        │ m7: port 70 of m7
        │ and 4 more
        │ why: nothing is known of it
        │ fix: ansible NODE -m ping
        ╵
    """)


def test_problems_without_a_node() -> None:
    first, second = (Problem(code, f"{code} seen", "", "") for code in ("a", "b"))
    assert render_text(problems([("", first), ("", second)])) == "╷ a\n│ a seen\n╵\n╷ b\n│ b seen\n╵"


def test_wrapped_lines_keep_the_rule() -> None:
    long = Problem("c", "word " * 20, "w", "f")
    lines = render_text(problems([("", long)]), width=40).splitlines()
    assert len(lines) == 7
    assert all(text.startswith(("╷ ", "│ ", "╵")) and len(text) <= 40 for text in lines)


def test_control_characters_from_a_node_are_escaped() -> None:
    hostile = Problem("x\x1b[2J", "[bold red]not markup[/] \x1b]0;title\x07", "a\rb", ":boom:")
    text = render_text(problems([("n\x1b1", hostile)]), color=True)
    for left in ("\\x1b[2J", "[bold red]not markup[/] \\x1b]0;title\\x07", "a\\rb", ":boom:", "n\\x1b1"):
        assert left in text
    assert "\x1b]" not in text
    assert "\x07" not in text


def test_a_command_is_not_wrapped_on_a_narrow_screen() -> None:
    command = f"    skopeo copy docker://a.example/b@sha256:{'0' * 64} docker://registry.lab:5000/b:t"
    problem = Problem("c", "w" * 50, "y", f"with skopeo:\n{command}\nthen: provision lock demo")
    paper = StringIO()
    Console(width=40, file=paper, color_system=None).print(problems([("", problem)]), crop=False)
    shown = paper.getvalue().splitlines()
    assert command in shown
    assert all(line[0] in "╷│╵" and len(line) <= 40 for line in shown if line != command)
