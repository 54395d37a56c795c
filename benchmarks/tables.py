"""The tables at the end."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.records import Bare, OneClient, Row
from benchmarks.servers import SERVERS
from benchmarks.summary import Floor, Targets, best_session

NOISY = 0.2
"""Other work above so many cores makes a line unfit for comparison."""

WIDTH = 160
"""Columns, so that a table that is written to a file is whole."""


def print_bare(bare: Bare, floor: dict[int, Floor]) -> None:
    """The bare session, and the floors that follow."""
    sessions = new_table("Bare session", "threads", "batch", "img/s", "CPU ms/img")
    for rate in bare.sessions:
        sessions.add_row(str(rate.threads), str(rate.batch), show(rate.throughput), show(rate.cpu_ms))
    decodes = new_table(
        "Floors: cores / (CPU of one decode + of one picture in the best batch of a one-thread session)",
        *("px", "plain decode, CPU ms", "service's decode, CPU ms", "session, CPU ms"),
        *("floor with plain decode, img/s", "floor with service's decode, img/s"),
    )
    for each in floor.values():
        decodes.add_row(
            str(each.size),
            *map(show, (each.plain_decode_ms, each.service_decode_ms, each.session_ms, each.plain, each.service)),
        )
    print_tables(sessions, decodes)


def print_servers(rows: Sequence[Row], bare: Bare, floor: dict[int, Floor]) -> None:
    """A table for each size: the servers by clients, the fastest first."""
    best = best_session(bare)
    for size in dict.fromkeys(row.size for row in rows):
        table = new_table(
            f"JPEGs of {size} px; bare is {best.throughput:.0f} img/s at {best.threads} threads, batch {best.batch}",
            *("clients", "server", "img/s", "p50 ms", "p95 ms", "p99 ms", "batch", "CPU ms/img", "cores", "load cores"),
            *("other cores", "RSS MiB", "PSS MiB", "of bare", "of plain floor", "of own floor", "errors", "wrong"),
        )
        chosen = sorted((row for row in rows if row.size == size), key=lambda row: (row.clients, -row.throughput))
        for row, following in zip(chosen, [*chosen[1:], None], strict=True):
            own = row.throughput / floor[size].service if SERVERS[row.server].decodes_as_service else None
            figures = (
                *(row.throughput, row.p50_ms, row.p95_ms, row.p99_ms, row.mean_batch, row.cpu_ms, row.server_cores),
                *(row.load_cores, row.other_cores, row.rss_mib, row.pss_mib),
                *(row.throughput / best.throughput, row.throughput / floor[size].plain, own, row.errors, row.wrong),
            )
            last = following is None or following.clients != row.clients
            table.add_row(str(row.clients), row.server, *map(show, figures), end_section=last)
        print_tables(table)
    noisy = sum(row.other_cores > NOISY for row in rows)
    if noisy:
        Console().print(f"In {noisy} of {len(rows)} lines other work took over {NOISY} cores: not fit for comparison.")


def print_one_client(figures: Sequence[OneClient]) -> None:
    """Direct calls and requests of a single client."""
    table = new_table(
        "One client: medians in ms", "px", "pictures", "direct, 1 thread", "direct, all threads", "service", "overhead"
    )
    for each in figures:
        times = (each.direct_one_thread_ms, each.direct_all_threads_ms, each.service_ms, each.overhead_ms)
        table.add_row(str(each.size), str(each.pictures), *map(show, times))
    print_tables(table)


def print_targets(targets: Targets) -> None:
    """What the project set itself, in numbers."""
    table = new_table("Targets", "what", "measured")
    for ratio in targets.throughput:
        table.add_row(
            f"{ratio.size} px, {ratio.clients} clients: throughput over the floor",
            f"{ratio.of_plain_floor:.2f} with plain decode, {ratio.of_service_floor:.2f} with the service's",
        )
    for tail in targets.p99:
        table.add_row(
            f"p99 against {tail.peer}",
            f"lower in {tail.lower} of {tail.loads} loads, at worst {tail.worst_ratio:.2f} of its ({tail.worst_at})",
        )
    for overhead in targets.one_client_overhead:
        table.add_row(
            f"{overhead.size} px, one client: over decode and inference done directly", f"{overhead.ms:.2f} ms"
        )
    if targets.memory_ratio is not None:
        table.add_row("peak resident memory over the plain FastAPI handler's", f"{targets.memory_ratio:.2f}")
    if table.row_count:
        print_tables(table)


def new_table(title: str, *columns: str) -> Table:
    """An empty one."""
    table = Table(title=title, box=box.SIMPLE, title_justify="left", padding=(0, 1, 0, 0))
    for column in columns:
        text = column in {"server", "what", "measured"}
        table.add_column(column, justify="left" if text else "right", no_wrap=text)
    return table


def print_tables(*tables: Table) -> None:
    """On a terminal as it is, else wide enough to be whole."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for table in tables:
        console.print(table)


def show(value: float | None) -> str:
    """Three figures or so."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
