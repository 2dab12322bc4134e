"""``report.html``: one file, no network, readable without the rest; and ``report.json`` beside it."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from xenolect_mcp.demo import plots
from xenolect_mcp.demo.results import Arm, PhaseResult, Results, percentile

__all__ = ["html", "write"]

_CSS = """
:root { color-scheme: light dark; --paper:#fbfaf7; --card:#ffffff; --ink:#1d2329; --dim:#5d6873;
  --rule:#e2dfd8; --bar:#33658a; --share:#33658a; --harm:#b3261e; --safe:#2a7f62; --good:#e4efe9; --none:#f2f0eb; }
@media (prefers-color-scheme: dark) { :root { --paper:#15181b; --card:#1d2125; --ink:#e6e8ea; --dim:#9aa4ad;
  --rule:#32383e; --bar:#7fb2d6; --share:#7fb2d6; --harm:#ef7a70; --safe:#6fc3a1; --good:#22352d; --none:#23272b; } }
* { box-sizing: border-box } body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
main { max-width: 980px; margin: 0 auto; padding: 40px 20px 80px }
h1 { font-size: 30px; line-height:1.2; margin: 0 0 8px; letter-spacing:-.01em } h2 { font-size: 20px; margin: 48px 0 6px }
h3 { font-size: 16px; margin: 0 0 2px } p { margin: 6px 0 12px; max-width: 72ch } .dim, figcaption { color: var(--dim) }
figure { margin: 14px 0 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 16px 18px }
figcaption { font-size: 14px; margin-top: 8px; max-width: 78ch } svg { width: 100%; height: auto; display: block }
.facts { display:flex; flex-wrap:wrap; gap: 10px 28px; margin: 18px 0 0; padding:0; list-style:none }
.facts b { display:block; font-size: 22px; font-variant-numeric: tabular-nums } .facts span { color: var(--dim); font-size: 14px }
.scroll { overflow-x:auto } table { border-collapse: collapse; width: 100%; font-size: 14.5px; background: var(--card) }
th, td { text-align: left; padding: 9px 12px; border-bottom: 1px solid var(--rule); vertical-align: top }
th { color: var(--dim); font-weight: 600; font-size: 13px } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space:nowrap }
.badge { display:inline-block; border-radius: 4px; padding: 1px 8px; font-weight: 600; font-size: 13px; white-space:nowrap }
.promoted { color: var(--safe); border: 1px solid var(--safe) } .stopped { color: var(--harm); border: 1px solid var(--harm) }
.undecided { color: var(--dim); border: 1px dashed var(--dim) } .small { font-size: 13.5px; color: var(--dim) }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; overflow:auto; font-size: 13.5px }
text { font-size: 13px; fill: var(--ink) } text.tick, text.axis { fill: var(--dim); font-size: 12px } text.value { font-variant-numeric: tabular-nums }
text.harm { fill: var(--harm) } text.safe { fill: var(--safe) } text.cell { font-size: 12.5px } text.strong { fill: #fff; font-weight: 600 }
.bar { fill: var(--bar) } .grid { stroke: var(--rule) } .range { stroke: var(--bar); stroke-width: 2.5 } .dot { fill: var(--bar) }
.share { fill: var(--share); fill-opacity: .22; stroke: var(--share); stroke-width: 1.5 }
.limit { stroke-dasharray: 5 4; stroke-width: 1.2 } .limit.harm { stroke: var(--harm) } .limit.safe { stroke: var(--safe) }
.curve { fill: none; stroke-width: 2.4; stroke-linejoin: round } .curve.harm { stroke: var(--harm) }
.curve.safe { stroke: var(--safe); stroke-dasharray: 1 0 } circle.end { stroke: none }
circle.end.promoted { fill: var(--safe) } circle.end.stopped { fill: var(--harm) } circle.end.undecided { fill: var(--dim) }
rect.good { fill: var(--good) } rect.bad { fill: var(--harm) } rect.none { fill: var(--none) }
.legend i { display:inline-block; width: 18px; height: 3px; vertical-align: middle; margin: 0 6px 0 14px } .legend i:first-child { margin-left: 0 }
"""


def write(results: Results, directory: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json``; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    page, data = directory / "report.html", directory / "report.json"
    page.write_text(html(results), encoding="utf-8")
    data.write_text(json.dumps(results.to_json(), indent=1, default=str), encoding="utf-8")
    return page, data


def html(results: Results) -> str:
    """The page."""
    facts = results.facts
    tallies = results.by_variant()
    agreed, differed = results.agreement
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in results.problems)
    harm_at, safe_at = facts.get("harm_at", 100.0), facts.get("safe_at", 20.0)
    strip = [
        (f"{facts.get('agents', 0)}", "real MCP clients"),
        (f"{facts.get('sessions', 0)}", "recorded conversations, dealt anew in each phase"),
        (f"{len(results.attempts):,}", "tool calls over HTTP"),
        (f"{results.seconds:.0f} s", "all in all"),
        (f"{len(results.broken)}", "agents broken"),
    ]
    items = "".join(f"<li><b>{escape(n)}</b><span>{escape(w)}</span></li>" for n, w in strip)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>xenolect demo: {escape(results.sentence)}</title><style>{_CSS}</style></head><body><main>
<h1>{escape(results.sentence[:1].upper() + results.sentence[1:])}</h1>
<p class="dim">Five changes were made to the protocol that a fleet of agents speaks with a tool server, each first for a
few conversations. The manager watched what happened and decided by itself which change everybody gets and which is taken back.</p>
{f'<p><span class="badge stopped">not as it should be</span></p><ul>{problems}</ul>' if problems else ""}
<ul class="facts">{items}</ul>

<h2>What was decided</h2>
<div class="scroll"><table><thead><tr><th></th><th>Change</th><th>Decision</th><th class="n">New variant<br>calls, failed</th>
<th class="n">Control<br>calls, failed</th><th class="n">Bytes, of JSON<br>new / control</th><th class="n">Median ms<br>new / control</th></tr></thead>
<tbody>{"".join(_row(phase) for phase in results.phases)}</tbody></table></div>
<p class="small">A failed call of the new variant was repeated with the control, as a client would; {_retried(results)}
At the end every conversation was played once more with what was then selected: {len(results.replay):,} calls,
{sum(not a.ok for a in results.replay)} failed. Final assignment: {_assignment(results)}.</p>

<h2>Where the new contract broke</h2>
<p>Share of failed calls, by the tool suite that was called and by the variant that was spoken. One variant can be fine for
most suites and useless for one: that is why choices are made per agent and conversation.</p>
<figure class="scroll">{plots.heat_map(results)}
<figcaption>The failures of the strict contract are found by the MCP SDK's own validator: these tools declare one schema and
return another. Those of the rotated dictionary are answers an agent can not decode.</figcaption></figure>

<h2>What it saves</h2>
<figure>{plots.bytes_per_call(tallies)}<figcaption>Bytes of request and answer bodies as they were on the wire, in per cent of the same bodies as JSON;
calls that worked. The bytes a call in the second figure depend on which conversations a variant got. Headers are not in it
({_headers(results)}).</figcaption></figure>
<figure>{plots.latencies(tallies)}<figcaption>Time of a call as the client sees it, on this machine's loopback with
{facts.get("concurrency", 8)} conversations at a time: median (dot) and 95th percentile (bar).</figcaption></figure>

<h2>How each decision came about</h2>
<p class="legend small"><i style="background:var(--harm)"></i>evidence of harm: above its dashed line the variant is rolled back at once
<i style="background:var(--safe)"></i>evidence that it is no worse than the control: above its line it may be promoted, at a health check</p>
{"".join(_figure(phase, harm_at, safe_at) for phase in results.phases)}

<h2>The policy</h2>
<p>This file is all the demo told the manager about how to roll out. Time is compressed: one second here is
{facts.get("speed", 0) / 60:.0f} minutes for the manager.</p>
<pre>{escape(results.policy)}</pre>

<h2>What is real, and what is set</h2>
<p>The clients' names and declared capabilities, the conversations, the tools with their schemas and the tools' results come from published
packages (see NOTICE); the server is a real MCP server in another process, with a manager of its own on the same store. Both
processes selected independently and chose the same variant in {agreed:,} of {agreed + differed:,} calls; the rest fell into the moment after a
change that one of them had not read yet.</p>
<p>Set by the demo: that {facts.get("lagging", 0)} of {facts.get("agents", 0)} agents had not fetched the new dictionary in phases 4 and 5, which
era of MCP each client spoke, and the compressed time. No failure was planted. The tools are a benchmark's simulations{_executed(results)}.</p>
</main></body></html>
"""


def _executed(results: Results) -> str:
    same, other = results.executed
    if not same + other:
        return "; their results are replayed as they were recorded"
    return f", executed for {same + other:,} calls, of which {same:,} gave what is recorded"


def _row(phase: PhaseResult) -> str:
    new, control = phase.tally(Arm.CANARY), phase.tally(Arm.CONTROL)
    mark = "" if phase.as_expected else ' <span class="badge undecided">unexpected</span>'
    note = f'<div class="small">{escape(phase.note)}</div>' if phase.note else ""
    return (
        f"<tr><td>{phase.number}</td><td><b>{escape(phase.title)}</b><div class='small'>{escape(phase.what)}</div>{note}</td>"
        f'<td><span class="badge {phase.outcome}">{escape(phase.outcome)}</span>{mark}'
        f'<div class="small">{escape(phase.reason)}</div></td>'
        f'<td class="n">{new.calls}, {new.failed}</td><td class="n">{control.calls}, {control.failed}</td>'
        f'<td class="n">{_percent(new.ratio)} / {_percent(control.ratio)}</td>'
        f'<td class="n">{_ms(percentile(new.latencies, 0.5))} / {_ms(percentile(control.latencies, 0.5))}</td></tr>'
    )


def _figure(phase: PhaseResult, harm_at: float, safe_at: float) -> str:
    return (
        f"<figure><h3>{phase.number}. {escape(phase.title)} "
        f'<span class="badge {phase.outcome}">{escape(phase.outcome)}</span></h3>'
        f"{plots.rollout(phase, harm_at, safe_at)}"
        f"<figcaption>{escape(_story(phase))}</figcaption></figure>"
    )


def _story(phase: PhaseResult) -> str:
    new = phase.tally(Arm.CANARY)
    return (
        f"{phase.outcome.capitalize()} after {phase.decided_after:.1f} s and {new.calls} calls of the new variant, "
        f"{new.failed} of them failed."
    )


def _retried(results: Results) -> str:
    retries = [a for a in results.attempts if a.arm is Arm.RETRY]
    worked = sum(a.ok for a in retries)
    return f"{worked} of {len(retries)} such repeats worked. "


def _assignment(results: Results) -> str:
    return (
        ", ".join(f"{count} agents on {escape(name)}" for name, count in results.assignment.items())
        or "none"
    )


def _headers(results: Results) -> str:
    worked = [a for a in results.attempts if a.ok]
    if not worked:
        return "none seen"
    return (
        f"about {sum(a.headers for a in worked) / len(worked):,.0f} bytes a call, for every variant"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
