// Draw a dashboard with Grafana's own components: a fixed grid of 24 columns, one panel for each place.
// The page's global `DRAWING` holds the panels, the time range in ms, the series of each panel, the values of the
// variables, and the marks of the annotations.
import 'uplot/dist/uPlot.min.css';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, booleanOverrideProcessor, createTheme, DataFrame, dateTime, displayNameOverrideProcessor,
  FieldConfigOptionsRegistry, FieldType, getDisplayValueAlignmentFactors, getFieldDisplayValues, identityOverrideProcessor, numberOverrideProcessor,
  stringOverrideProcessor, thresholdsOverrideProcessor, toDataFrame, unitOverrideProcessor,
  valueMappingsOverrideProcessor, VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, ThemeContext, TimeSeries, VizRepeater } from '@grafana/ui';

interface Series { name: string; labels: Record<string, string>; times: number[]; values: Array<number | null> }
interface Mark { time: number; text: string; color: string }
declare const DRAWING: {
  title: string; theme: 'dark' | 'light'; from: number; to: number; panels: any[]; series: Record<string, Series[]>;
  variables: Array<[string, string]>; annotations: string[]; marks: Mark[];
};

const WIDTH = 1600, TOP = 60, CELL = 36, GAP = 8, HEAD = 28;
const theme = createTheme({ colors: { mode: DRAWING.theme } });
const registry = new FieldConfigOptionsRegistry();
const option = (id: string, path: string, process: any, isCustom = false) =>
  registry.register({
    id, path, name: id, isCustom, process, editor: () => null as any, override: () => null as any,
    shouldApply: () => true, settings: {}, getItemsCount: () => 0, defaultValue: undefined,
  } as any);
const standard: Record<string, any> = {
  displayName: displayNameOverrideProcessor, unit: unitOverrideProcessor, min: numberOverrideProcessor,
  max: numberOverrideProcessor, decimals: numberOverrideProcessor, thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor, noValue: stringOverrideProcessor, color: identityOverrideProcessor,
  fieldMinMax: booleanOverrideProcessor,
};
Object.entries(standard).forEach(([id, process]) => option(id, id, process));
['drawStyle', 'lineWidth', 'lineStyle', 'lineInterpolation', 'fillOpacity', 'fillBelowTo', 'showPoints', 'spanNulls',
  'axisSoftMin', 'axisSoftMax', 'axisPlacement', 'axisLabel', 'scaleDistribution', 'thresholdsStyle', 'hideFrom',
  'gradientMode', 'pointSize', 'stacking'].forEach((id) => option(`custom.${id}`, id, identityOverrideProcessor, true));

const text = (written: string) => written ?? '';

function framesOf(panel: any): DataFrame[] {
  const defaults = { color: { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' }, ...panel.fieldConfig.defaults };
  const custom = { drawStyle: 'line', lineInterpolation: 'linear', showPoints: 'never', axisPlacement: 'auto',
    scaleDistribution: { type: 'linear' }, hideFrom: { legend: false, tooltip: false, viz: false }, ...defaults.custom };
  const frames = (DRAWING.series[panel.key] ?? []).map((each) => toDataFrame({
    name: each.name,
    fields: [
      { name: 'Time', type: FieldType.time, values: each.times },
      { name: 'Value', type: FieldType.number, values: each.values, labels: each.labels, config: { displayNameFromDS: each.name } },
    ],
  }));
  return applyFieldOverrides({
    data: frames, theme, timeZone: 'utc', fieldConfigRegistry: registry, replaceVariables: text,
    fieldConfig: { defaults: { ...defaults, custom }, overrides: panel.fieldConfig.overrides ?? [] },
  });
}

function Values({ panel, frames, width, height }: any) {
  const defaults = { color: { mode: 'thresholds' }, ...panel.fieldConfig.defaults };
  const values = getFieldDisplayValues({
    fieldConfig: { defaults, overrides: panel.fieldConfig.overrides ?? [] }, reduceOptions: panel.options.reduceOptions, data: frames,
    theme, timeZone: 'utc', replaceVariables: text, sparkline: panel.options.graphMode === 'area',
  });
  const isBar = panel.type === 'bargauge';
  return (
    <VizRepeater getValues={() => values} source={frames} renderCounter={0} width={width} height={height} autoGrid
      itemSpacing={isBar ? 4 : 6} minVizHeight={isBar ? 16 : 20}
      orientation={isBar ? VizOrientation.Horizontal : VizOrientation.Auto}
      renderValue={({ value, width: w, height: h }: any) => isBar
        ? <BarGauge theme={theme} width={w} height={h} value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)}
            orientation={VizOrientation.Horizontal} displayMode={panel.options.displayMode} text={panel.options.text}
            alignmentFactors={getDisplayValueAlignmentFactors(values)} showUnfilled={panel.options.showUnfilled} />
        : <BigValue theme={theme} width={w} height={h} value={value.display} sparkline={value.sparkline} count={values.length}
            colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} justifyMode={'auto' as any}
            textMode={panel.options.textMode} text={panel.options.text} disableWideLayout={!panel.options.wideLayout} />}
    />
  );
}

function drawMarks(plot: any) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const mark of DRAWING.marks) {
    const x = Math.round(plot.valToPos(mark.time, 'x', true)), half = 5 * devicePixelRatio;
    ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(mark.color);
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x - half, bbox.top + bbox.height + half);
    ctx.lineTo(x + half, bbox.top + bbox.height + half);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.fill();
  }
  ctx.restore();
}

function Top() {
  const { colors } = theme;
  const box = { display: 'inline-block', border: `1px solid ${colors.border.medium}`, padding: '4px 8px', fontSize: 13 };
  const clock = (at: number) => new Date(at).toISOString().slice(0, 16).replace('T', ' ');
  return (
    <div style={{ position: 'absolute', left: GAP, right: GAP, top: 14, display: 'flex', alignItems: 'center', gap: 16, whiteSpace: 'nowrap' }}>
      <span style={{ fontSize: 18, fontWeight: 500 }}>{DRAWING.title}</span>
      {DRAWING.variables.map(([label, value]) => (
        <span key={label}>
          <span style={{ ...box, background: colors.background.secondary, borderRight: 0 }}>{label}</span>
          <span style={{ ...box, background: colors.background.primary }}>{value}</span>
        </span>
      ))}
      {DRAWING.annotations.map((name) => <span key={name} style={box}>{name}: on</span>)}
      <span style={{ ...box, marginLeft: 'auto' }}>{`${clock(DRAWING.from)} to ${clock(DRAWING.to)} UTC`}</span>
    </div>
  );
}

function Panel({ panel }: any) {
  const { x, y, w, h } = panel.gridPos;
  const unit = (WIDTH - GAP) / 24;
  const box = { position: 'absolute' as const, left: GAP + x * unit, top: TOP + GAP + y * CELL, width: w * unit - GAP, height: h * CELL - GAP, overflow: 'hidden', boxSizing: 'border-box' as const };
  if (panel.type === 'row') {
    return <div style={{ ...box, color: theme.colors.text.primary, fontSize: 16, fontWeight: 500, paddingTop: 4 }}>{panel.title}</div>;
  }
  const frames = framesOf(panel), width = box.width - 16, height = box.height - HEAD - 8;
  const range = { from: dateTime(DRAWING.from), to: dateTime(DRAWING.to), raw: { from: 'now-6h', to: 'now' } };
  return (
    <div style={{ ...box, background: theme.colors.background.primary, border: `1px solid ${theme.colors.border.weak}`, borderRadius: 2 }}>
      <div style={{ height: HEAD, padding: '5px 8px', fontWeight: 500, fontSize: 13, color: theme.colors.text.primary, whiteSpace: 'nowrap', overflow: 'hidden' }}>{panel.title}</div>
      <div style={{ position: 'absolute', left: 8, top: HEAD, width, height }}>
        {frames.length === 0
          ? <div style={{ color: theme.colors.text.secondary, textAlign: 'center', paddingTop: height / 3 }}>No data</div>
          : panel.type === 'timeseries'
            ? <TimeSeries frames={frames} width={width} height={height} timeRange={range as any} timeZone="utc" legend={panel.options.legend} options={panel.options}>
                {(builder: any) => { builder.addHook('draw', drawMarks); return null; }}
              </TimeSeries>
            : <Values panel={panel} frames={frames} width={width} height={height} />}
      </div>
    </div>
  );
}

document.body.style.cssText = `margin:0;background:${theme.colors.background.canvas};color:${theme.colors.text.primary};font-family:Inter,Helvetica,Arial,sans-serif`;
const style = document.createElement('style'); // Grafana's own reset, as far as the panels need one
style.textContent = '*,*::before,*::after{box-sizing:border-box}button{color:inherit;background:none;border:0;font:inherit;padding:0}';
document.head.append(style);
createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}>
    <Top />
    {DRAWING.panels.map((panel: any) => <Panel key={panel.key} panel={panel} />)}
  </ThemeContext.Provider>,
);
