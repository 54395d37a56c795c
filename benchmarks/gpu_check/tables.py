"""The report as tables."""

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check.records import Report
from benchmarks.tables import new_table, print_tables, show


def print_report(report: Report) -> None:
    """Every table that has rows, then what was not run and what is wrong."""
    tables = (_providers(report), _parity(report), _speed(report), _memory(report), _service(report))
    print_tables(*(table for table in tables if table.row_count))
    console = Console()
    for line in report.not_run:
        console.print(f"not run: {line}", highlight=False, soft_wrap=True)
    for line in report.faults:
        console.print(f"fault: {line}", highlight=False, soft_wrap=True)


def _providers(report: Report) -> Table:
    table = new_table(
        "Where nodes run (ms on a GPU: of launching), in one run; the operators that write most come first",
        *("model", "precision", "provider", "operator", "nodes", "ms", "largest result, KiB", "stray"),
    )
    for row in report.providers:
        others = [each for each in row.nodes if each.provider != row.expected]
        on_provider = [each for each in row.nodes if each.provider == row.expected]
        table.add_row(
            row.model, row.precision, row.expected, "all", str(sum(each.count for each in on_provider)),
            show(sum(each.milliseconds for each in on_provider)), "", "",
        )  # fmt: skip
        for each in others:
            table.add_row(
                "", "", each.provider, each.operator, str(each.count), show(each.milliseconds),
                show(each.largest_bytes / 1024), "yes" if each.operator in row.strays else "",
            )  # fmt: skip
    return table


def _parity(report: Report) -> Table:
    table = new_table(
        "Against float32 on the CPU",
        *("model", "precision", "batch", "max |Δlogit|", "logits span", "max |Δp|", "top-1 %", "passed"),
    )
    for row in report.parity:
        table.add_row(
            row.model, row.precision, str(row.batch), f"{row.max_abs_logit_error:.2e}", show(row.logit_range),
            f"{row.max_abs_probability_error:.2e}", show(100 * row.top1_agreement), "yes" if row.passed else "no",
        )  # fmt: skip
    return table


def _speed(report: Report) -> Table:
    table = new_table(
        "Pixels to answers",
        *("model", "precision", "batch", "p50 ms", "p95 ms", "img/s", "TFLOP/s", "of product", "of copy"),
        *("product TFLOP/s", "copy GB/s"),
    )
    for row in report.speed:
        figures = (
            *(row.p50_ms, row.p95_ms, row.per_second, row.teraflops, row.of_product, row.of_copy),
            *(row.product_teraflops, row.copy_gigabytes),
        )
        table.add_row(row.model, row.precision, str(row.batch), *map(show, figures))
    return table


def _memory(report: Report) -> Table:
    table = new_table(
        "Memory over runs of random batch sizes, MiB: at first, at last, at most",
        *("model", "precision", "runs", "GPU", "host", "flat"),
    )
    for row in report.memory:
        on_device = ", ".join(map(show, (row.device_first, row.device_last, row.device_peak)))
        on_host = ", ".join(map(show, (row.host_first, row.host_last, row.host_peak)))
        flat = "yes" if row.flat else "no"
        table.add_row(row.model, row.precision, str(row.requests), on_device, on_host, flat)
    return table


def _service(report: Report) -> Table:
    table = new_table(
        "The service, JPEGs over HTTP",
        *("model", "precision", "px", "clients", "img/s", "p50 ms", "p99 ms", "batch", "cores", "errors", "wrong"),
    )
    for row in report.service:
        figures = (row.per_second, row.p50_ms, row.p99_ms, row.mean_batch, row.cores)
        table.add_row(
            row.model, row.precision, str(row.size), str(row.clients), *map(show, figures),
            str(row.errors), str(row.wrong),
        )  # fmt: skip
    return table
