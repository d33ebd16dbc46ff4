"""Files of a report on demand: LaTeX, CSV of all rounds, and the page that is watched."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from written_runs import write_run, write_sweep

from fedlit.core.errors import ConfigErrors
from fedlit.reports import report
from fedlit.reports.render.latex import escape_latex, to_latex
from fedlit.reports.render.long_csv import rounds_to_csv
from fedlit.reports.render.tables import make_tables
from fedlit.reports.result import make_report, make_result
from fedlit.reports.watch import run_state, watch_runs


def test_latex_has_every_table_with_the_rules_of_booktabs(tmp_path):
    result = make_result([write_sweep(tmp_path)], target=0.72)
    text, tables = to_latex(result), [*make_tables(result, True)]
    for name in ("begin{table}", "end{table}", "toprule", "midrule", "bottomrule", "caption{"):
        assert text.count(f"\\{name}") == len(tables)
    bodies = re.findall(r"\\begin\{tabular\}\{(lr*)\}\n\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    for (columns, body), table in zip(bodies, tables, strict=True):
        assert len(columns) == len(table.columns)
        rows = [line for line in body.splitlines() if line != r"\midrule"]
        assert len(rows) == len(table.rows) + 1
        assert all(line.endswith(r" \\") and line.count(" & ") == len(columns) - 1 for line in rows)
    assert r"algorithm=fedavg partition.alpha=0.1 & best & 3 & 0.723 & 0.025 & {[}0.661, 0.786] \\" in text
    assert "95 \\%" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % #1 $x {y}", r"a\_b \& 5 \% \#1 \$x \{y\}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("-0.5 [-1, +2], 1e-3, a-b", "$-$0.5 {[}$-$1, +2], 1e{-}3, a{-}b"),
        ("a\nb\x1b", r"a b\textbackslash{}x1b"),
        ("[2ex] *x*", r"{[}2ex] {*}x{*}"),
        ("'a' `b`,,c", r"\textquotesingle{}a\textquotesingle{} \textasciigrave{}b\textasciigrave{},{,}c"),
        ("é λ😀", r"é \reportsign{λ}{03BB}\reportsign{😀}{1F600}"),
    ],
)
def test_texts_are_printed_by_latex_as_they_are(text, expected):
    assert escape_latex(text) == expected


DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
\input{report.tex}
\begin{tabular}{ll}
%s
\end{tabular}
\end{document}
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_latex_compiles_whatever_the_names_are(tmp_path, engine):
    if shutil.which(engine) is None:
        pytest.skip(f"{engine} is not installed")
    names = ["<script>", "a_b%c&d#e$f^g~h\\i{j}k", "[2ex] *x", "\\input{/etc/passwd}", "é λ 日本 😀", "?` !` ,, -- '"]
    for number, name in enumerate(names):
        write_run(tmp_path / f"{number}", model__name=name)
        write_run(tmp_path / f"{number} again", model__name=name, seed=2)
    (tmp_path / "report.tex").write_text(to_latex(make_result([tmp_path], target=0.6)))
    signs = [chr(number) for number in range(33, 256) if chr(number).isprintable()]
    rows = [rf"{escape_latex(sign)} & {escape_latex(f'{sign}{sign} 1{sign}')} \\" for sign in signs]  # [ after \\, --
    (tmp_path / "main.tex").write_text(DOCUMENT % "\n".join(rows))
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1000:]
    assert (tmp_path / "main.pdf").stat().st_size > 10_000


def test_long_csv_has_a_row_for_each_run_round_and_metric(tmp_path):
    rounds = {2: {"train/loss": None}, 3: {"=cmd()": 1.5}}
    for seed in (1, 2):
        for value in "ab":
            write_run(tmp_path / f"{seed}{value}", [0.5, 0.25, 0.75], rounds=rounds, seed=seed, new=value)
    rows = [*csv.DictReader(io.StringIO(rounds_to_csv(make_report([tmp_path]))))]
    assert [*rows[0]] == ["folder", "group", "new", "seed", "round", "metric", "value"]
    kept = [row for row in rows if row["metric"] == "test/accuracy" and row["new"] == "b"]
    assert [(row["seed"], row["round"], row["value"]) for row in kept] == [
        (seed, round, value) for seed in "12" for round, value in (("1", "0.5"), ("2", "0.25"), ("3", "0.75"))
    ]
    assert {row["value"] for row in rows if row["metric"] == "train/loss"} == {""}
    assert {row["metric"] for row in rows} & {"cohort", "failures", "lost", "round", "state_sha256", "=cmd()"} == set()
    assert [row["value"] for row in rows if row["metric"] == "'=cmd()"] == ["1.5"] * 4
    assert len(rows) == 4 * (3 * 5 + 2)


def test_files_on_demand_are_named(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=2)
    report.main([str(tmp_path), "--latex", "--csv", "long"])
    names = ["report.html", "report.md", "report.csv", "report.json", "report-long.csv", "report.tex"]
    assert capsys.readouterr().out.splitlines()[-1].endswith(f": {', '.join(names)}, figures")
    assert {*names} <= {path.name for path in tmp_path.iterdir()}


class Watched:
    """Counts writes; `wait` changes the folder by the next step, and ends as Ctrl-C does after the last one."""

    def __init__(self, *steps):
        self.writes, self.lines, self.steps = 0, [], [*steps]

    def wait(self, seconds):
        assert seconds == 7
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


def test_page_is_written_when_runs_change_and_only_then(tmp_path):
    folder = tmp_path / "sweep"

    def write():
        watched.writes += 1
        make_report([folder])

    watched = Watched(
        folder.mkdir,
        lambda: write_run(folder / "a", [0.1], unfinished=True),
        lambda: None,
        lambda: write_run(folder / "b"),
        lambda: None,
        lambda: (folder / "a" / "rounds.jsonl").write_text((folder / "b" / "rounds.jsonl").read_text()),
        lambda: (folder / "b" / "train.log").write_text("no file of the report"),
    )
    watch_runs([folder], write, watched.lines.append, 7, watched.wait)
    assert watched.writes == 4  # at first, and after three changes
    assert [line.partition(":")[0] for line in watched.lines] == ["waiting", "waiting", "2 runs, 1 finished"]
    assert watched.steps == []


def test_state_of_runs_has_the_files_that_change(tmp_path):
    assert run_state([tmp_path / "none"]) == ()
    write_run(tmp_path / "a")
    ((folder, files),) = run_state([tmp_path])
    assert (folder, [*files]) == (tmp_path / "a", ["rounds.jsonl", "summary.json"])


def test_watched_page_reloads_itself_and_the_last_one_stays(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "a")
    pages = []

    def stop(seconds):
        pages.append((tmp_path / "report.html").read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(report.watch_runs, "__defaults__", (stop,))
    report.main([str(tmp_path), "--watch", "5"])
    assert 'http-equiv="refresh" content="5"' in pages[0]
    assert 'http-equiv="refresh"' not in (tmp_path / "report.html").read_text()
    assert "Ctrl-C ends it" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "x", "1e9"])
def test_wrong_seconds_are_an_error(tmp_path, seconds, capsys):
    write_run(tmp_path / "a")
    with pytest.raises(SystemExit) as caught:
        report.main([str(tmp_path), f"--watch={seconds}"])
    assert caught.value.code == 2
    assert "--watch" in capsys.readouterr().err


def test_a_watch_of_several_sweeps_needs_a_folder(tmp_path, capsys):
    for name in "ab":
        write_run(tmp_path / name / "run")
    with pytest.raises(SystemExit) as caught:
        report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--watch"])
    assert caught.value.code == 2
    assert "add --out FOLDER" in capsys.readouterr().err


def test_folder_that_is_not_writable_is_an_error(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigErrors, match="is not writable"):
        report.write_report([tmp_path / "a"], tmp_path / "file")
    assert json.loads((tmp_path / "a" / "summary.json").read_text())
