"""What `python -m kernels bench` prints and draws."""

import os


def print_checks(checks):
    for check in checks:
        says = f"error {check['error']:.1e}" if "error" in check else check["reason"]
        print(f"{check['op']:<26}{check['rung']:<12}{check['device']:<5}{check['verdict']}: {says}")


def print_ceilings(ceilings, threads):
    print(
        f"\n{threads} thread{'s' * (threads > 1)}: {ceilings['flops']:.0f} GFLOP/s at most "
        f"(matrix product {ceilings['sgemm']:.0f}), {ceilings['stream']:.1f} GB/s from memory"
    )


def rate(answer, ceilings):
    """A row for each contestant of a case, printed: its speed, and what share of the ceiling it is.

    The ceiling of a case is the time that its operations take at the highest speed, or its bytes
    from memory, whichever is longer. Winograd and FFT do fewer operations than the formula, whose
    operations are counted: they may exceed 100 %.
    """
    if answer["op"] == "scaling":
        return _scaling(answer)
    if "megabytes" in answer:
        return [_memory(answer)]
    where = f"{answer['threads']} thread{'s' * (answer['threads'] > 1)}, {answer['allocator']} allocator"
    print(f"\n{answer['op']} {answer['case']}   [{where}]")
    best = min((t["milliseconds"] for name, t in answer["times"].items() if is_peer(name)),
               default=None)
    rows = []
    for name, times in answer["times"].items():
        row = {key: answer[key] for key in ("op", "case", "threads", "allocator")}
        row |= {"name": name, **times, "must": answer.get("must") if not is_peer(name) else None}
        seconds = times["milliseconds"] / 1e3
        flops, moved = answer.get("flops"), answer.get("bytes")
        row |= {"value": answer["value"]} if "value" in answer else {}
        row["ratio"] = best and best / times["milliseconds"]
        row["chosen"] = name == answer.get("chosen")
        text = f"  {'>' if row['chosen'] else ' '} {name:<22}{times['milliseconds']:10.3f} ms"
        floor = 0
        if moved:
            row["bytes"], row["gbytes_per_second"] = moved, moved / seconds / 1e9
            floor = moved / ceilings["stream"] / 1e9
            speed = f"{row['gbytes_per_second']:8.1f} GB/s"
        if flops:
            row["flops"], row["gflops_per_second"] = flops, flops / seconds / 1e9
            floor = max(floor, flops / ceilings["flops"] / 1e9)
            speed = f"{row['gflops_per_second']:8.1f} GFLOP/s"
        if floor:
            row["percent_of_ceiling"] = 100 * floor / seconds
            text += f"{speed:<17}{row['percent_of_ceiling']:5.0f} % of the ceiling"
        if best and not is_peer(name):
            text += f"   {row['ratio']:.2f} x PyTorch" + (f", must {row['must']}" if row["must"] else "")
        print(text, flush=True)
        rows.append(row)
    return rows


def _scaling(answer):
    print(f"\nscaling: nanoseconds for a pixel of 32 -> 64 channels, 3x3, by {answer['case']}")
    rows = []
    for name, times in answer["times"].items():
        nanoseconds = 1e6 * times["milliseconds"] / answer["pixels"][name]
        print(f"    {name:<22}{nanoseconds:10.1f} ns")
        rows.append({"op": "scaling", "case": answer["case"], "name": name,
                     "nanoseconds_per_pixel": nanoseconds, **times})
    return rows


def _memory(answer):
    megabytes = answer["megabytes"]
    print(f"\n{answer['case']}: " + ", ".join(f"{name} {m:.0f}" for name, m in megabytes.items()))
    least = min((m for name, m in megabytes.items() if is_peer(name)), default=None)
    row = {key: answer[key] for key in ("op", "case", "threads", "allocator", "must", "megabytes")}
    return {**row, "name": "api", "ratio": least and least / megabytes["api"]}


def is_peer(name):
    return name.startswith("torch")


def print_summary(rows):
    """The rows that have something to reach: the public API's."""
    rows = [row for row in rows if row.get("must")]
    if rows:
        print(f"\n{'must be reached':<58}{'threads':>8}{'allocator':>10}{'must':>7}{'got':>7}")
    for row in rows:
        got, must = row.get("value", row["ratio"]), row["must"]
        if got is None:
            continue
        reached = got <= must if "value" in row else got >= must
        label = f"{row['op']} {row['case']}: {row['name']}"
        print(f"{label:<58}{row['threads']:>8}{row['allocator']:>10}{must:7.2f}{got:7.2f}"
              + ("" if reached else "   missed"))


def check_plot(path):
    """SystemExit if `plot` cannot make a file of that name: it is called after minutes of measuring."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    endings = FigureCanvasBase.get_supported_filetypes()
    if os.path.splitext(path)[1][1:].lower() not in ("", *endings):
        raise SystemExit(f"{path}: matplotlib writes files named *.{', *.'.join(endings)}")


def plot(results, path):
    """Rooflines: above, of the ops that compute, operations for each byte against operations in a
    second; below, of those that memory bounds, bytes in a second. Every rung is a point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    counts = sorted(results["ceilings"], key=int)
    every = [row for row in results["rows"]
             if row.get("bytes") and row["op"] != "api" and row["allocator"] == "default"]
    marks = dict(zip(dict.fromkeys(row["name"] for row in every), "osD^vP*Xp<>d" * 3))
    slowest = min((row["gflops_per_second"] for row in every if row.get("flops")), default=1)
    computing = list(dict.fromkeys(_family(row["op"]) for row in every if row.get("flops")))
    colours = dict(zip(computing, plt.get_cmap("tab10")(np.arange(len(computing)))))
    moving = list(dict.fromkeys(row["op"] for row in every if not row.get("flops")))[::-1]
    figure, panels = plt.subplots(
        2, len(counts), figsize=(7 * len(counts) + 2, 12), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": [1, 0.3 + 0.035 * len(moving)]})
    for (above, below), count in zip(panels.T, counts):
        ceiling = results["ceilings"][count]
        intensity = np.geomspace(0.5, 500, 200)
        roof = np.minimum(ceiling["flops"], intensity * ceiling["stream"])
        above.plot(intensity, roof, color="0.3")
        above.annotate(f"{ceiling['flops']:.0f} GFLOP/s", (500, ceiling["flops"]), (-4, 4),
                       textcoords="offset points", ha="right", color="0.3")
        below.axvline(ceiling["stream"], color="0.3")
        below.annotate(f"{ceiling['stream']:.0f} GB/s", (ceiling["stream"], 1), (0, 4), ha="center",
                       xycoords=("data", "axes fraction"), textcoords="offset points", color="0.3")
        for row in (row for row in every if str(row["threads"]) == count):
            style = {"s": 50, "alpha": 0.85, "marker": marks[row["name"]], "edgecolors": "0.2",
                     "linewidths": 0.4}
            if row.get("flops"):
                above.scatter(row["flops"] / row["bytes"], row["flops"] / row["milliseconds"] / 1e6,
                              color=[colours[_family(row["op"])]], **style)
            else:
                peer = row["name"].startswith("torch")
                below.scatter(row["gbytes_per_second"], moving.index(row["op"]),
                              color="tab:orange" if peer else "tab:blue", **style)
        above.set(xscale="log", yscale="log", xlim=(0.5, 500),
                  ylim=(min(0.5, 0.7 * slowest), 2.5 * ceiling["flops"]),
                  xlabel="operations for each byte from memory (FLOP/B)", ylabel="speed (GFLOP/s)",
                  title=f"{count} thread{'s' * (count != '1')}")
        below.set(xscale="log", xlabel="speed (GB/s; above the ceiling: from the cache)",
                  yticks=range(len(moving)), yticklabels=moving, ylim=(-1, len(moving)))
        below.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        below.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        below.xaxis.set_minor_locator(NullLocator())
        for axes in (above, below):
            axes.grid(True, which="major", color="0.9")
            axes.set_axisbelow(True)
    colour_key = [plt.Line2D([], [], ls="", marker="o", color=c, label=op) for op, c in colours.items()]
    mark_key = [plt.Line2D([], [], ls="", marker=m, color="0.4", label=name)
                for name, m in marks.items()]
    if colour_key:
        panels[0, -1].legend(handles=colour_key, loc="upper left", bbox_to_anchor=(1.02, 1),
                             title="op", frameon=False)
    panels[1, -1].legend(handles=mark_key, loc="upper left", bbox_to_anchor=(1.02, 1), title="rung",
                         frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _family(op):
    """An op and its gradients have one colour."""
    return op.split("_")[0]
