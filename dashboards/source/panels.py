"""The few kinds of panel that the dashboards are made of, in one manner: every panel says what to look
for, has a unit, and takes its data source from the dashboard's variable. Colours are names of Grafana's
palette, which has a shade of each for its light and its dark theme."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import units

BYTES = units.BytesIEC
BYTES_PER_SECOND = units.BytesPerSecondIEC
SECONDS = units.Seconds
RATIO = units.PercentUnit
NUMBER = units.Short
PER_SECOND = "suffix:/s"
TIMES = "suffix:×"

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel
Variable = dashboard.QueryVariable | dashboard.CustomVariable


@dataclass(frozen=True)
class Query:
    """One query of a panel, and how its series are drawn where that differs from the panel's manner."""

    expr: str
    legend: str
    color: str = ""
    # On the right axis, in this unit.
    right: str = ""
    bars: bool = False
    # A line over stacked areas, not one of them.
    over: bool = False


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """From which value on which colour; the first has no value."""
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in pairs])
    )


def targets(queries: Sequence[Query], instant: bool = False) -> list[Builder[variants.Dataquery]]:
    def target(index: int, query: Query) -> prometheus.Dataquery:
        one = prometheus.Dataquery().ref_id(chr(ord("A") + index)).expr(query.expr)
        one = one.legend_format(query.legend).datasource(SOURCE)
        return one.instant() if instant else one.range()

    return [target(index, query) for index, query in enumerate(queries)]


def prop(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


def fixed(color: str) -> model.DynamicConfigValue:
    return prop("color", {"mode": "fixed", "fixedColor": color})


def chart(
    title: str,
    look_for: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    colors: dict[str, str] | None = None,
    right_label: str = "",
    maximum: float | None = None,
    table: bool = False,
    thresholds: dashboard.ThresholdsConfig | None = None,
) -> timeseries.Panel:
    """Lines over time; with `stacked`, areas that add up to something."""
    legend = common.VizLegendOptions().show_legend(True).placement(kinds.LegendPlacement.BOTTOM)
    if table:
        legend = legend.display_mode(kinds.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])
        legend = legend.placement(kinds.LegendPlacement.RIGHT)
    else:
        legend = legend.display_mode(kinds.LegendDisplayMode.LIST).calcs([])
    stacking = kinds.StackingMode.NORMAL if stacked else kinds.StackingMode.NONE
    # The shades of many lines would add up to brown.
    many = any("{{" in query.legend for query in queries)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(look_for)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(height)
        .line_width(1)
        .fill_opacity(60 if stacked else 0 if many else 8)
        .show_points(kinds.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(stacking).group("A"))
        .legend(legend)
        .tooltip(
            common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
        )
    )
    panel.targets(targets(queries))
    if maximum is not None:
        panel.max(maximum)
    if thresholds is not None:
        panel.thresholds(thresholds)
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [fixed(color)])
    for index, query in enumerate(queries):
        properties: list[model.DynamicConfigValue] = []
        if query.color:
            properties.append(fixed(query.color))
        if query.right:
            properties += [prop("unit", query.right), prop("custom.axisPlacement", "right")]
            if right_label:
                properties.append(prop("custom.axisLabel", right_label))
        if query.bars:
            properties += [prop("custom.drawStyle", "bars"), prop("custom.fillOpacity", 40)]
            properties.append(prop("custom.lineWidth", 0))
        if query.over:
            properties += [
                prop("custom.stacking", {"mode": "none", "group": "A"}),
                prop("custom.fillOpacity", 0),
                prop("custom.lineWidth", 2),
                prop("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            ]
        if properties:
            panel.override_by_query(chr(ord("A") + index), properties)
    return panel


def figure(
    title: str,
    look_for: str,
    unit: str,
    expr: str,
    *,
    width: int = 4,
    thresholds: dashboard.ThresholdsConfig | None = None,
    words: dict[str, tuple[str, str]] | None = None,
    instant: bool = False,
    decimals: int | None = None,
) -> stat.Panel:
    """One figure, large, over the course of its last values. `words`: value to text and colour."""
    panel = (
        stat.Panel()
        .title(title)
        .description(look_for)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.NONE if instant else kinds.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(thresholds or steps((None, "text")))
    )
    panel.targets(targets([Query(expr, title)], instant))
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        results = {
            value: model.ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()
        }
        panel.mappings([model.ValueMap(options=results)])
    return panel


def bars(
    title: str,
    look_for: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 8,
    height: int = 8,
    thresholds: dashboard.ThresholdsConfig | None = None,
    link: bool = False,
) -> bargauge.Panel:
    """What is now, as bars from the longest down. With `link`, a bar leads to its process."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(look_for)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(height)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    panel.targets(targets(queries, instant=True))
    if thresholds is not None:
        panel.thresholds(thresholds)
    else:
        color = dashboard.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color("blue")
        panel.color_scheme(color).thresholds(steps((None, "blue")))
    for index, query in enumerate(queries):
        if query.color:
            panel.override_by_query(chr(ord("A") + index), [fixed(query.color)])
    if link:
        to_service = (
            "/d/slackwater-service?var-datasource=${datasource}&var-job=${__field.labels.job}"
            "&var-instance=${__field.labels.instance}&${__url_time_range}"
        )
        panel.data_links([dashboard.DashboardLink("Show this process").url(to_service)])
    return panel


def heat(
    title: str, look_for: str, unit: str, expr: str, *, width: int = 12, height: int = 8
) -> heatmap.Panel:
    """How a histogram's buckets fill over time."""
    panel = (
        heatmap.Panel()
        .title(title)
        .description(look_for)
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .calculate(False)
        .cell_gap(1)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
        )
        .hide_y_histogram()
    )
    query = prometheus.Dataquery().ref_id("A").expr(expr).legend_format("{{le}}").range()
    query = query.format(prometheus_model.PromQueryFormat.HEATMAP).datasource(SOURCE)
    return panel.targets([query])


def variable(name: str, label: str, query: str, description: str) -> dashboard.QueryVariable:
    """A choice among a label's values; everything, at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def board(
    uid: str,
    title: str,
    description: str,
    other: tuple[str, str],
    variables: Sequence[Variable],
    rows: Sequence[tuple[str, Sequence[Panel]]],
) -> dashboard.Dashboard:
    """A dashboard of rows; `other` is title and path of the one it leads to."""
    result = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["slackwater", "memory"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink(other[0])
            .type(model.DashboardLinkType.LINK)
            .url(other[1])
            .icon("dashboard")
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for one in variables:
        result.with_variable(one)
    number = 0
    for row_title, panels in rows:
        number += 1
        result.with_row(dashboard.Row(row_title).id(number))
        for panel in panels:
            number += 1
            result.with_panel(panel.id(number))
    return result
