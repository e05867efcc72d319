// uPlot, loaded when the first chart is shown. Colours come from the page: a canvas knows nothing of its variables.
import UPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { exact } from '../format.js'

const DAY_S = 86_400
const SHORTEST_S = 600 // of the axis, where there is little to show yet
const STEPS = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat() // whole jobs, whole micro-units

// Of the axis of time. By the data: of a single point uPlot gives years.
function ends({ data: [at] }) {
  const last = at[at.length - 1] ?? 0
  return [Math.min(at[0] ?? last, last - SHORTEST_S), last]
}

// 18:30, or 11-24 for a day's beginning: a line of its own for the date is not there.
function moment(tick, step) {
  const [date, time] = exact(tick).split(' ')
  return step >= DAY_S || time.startsWith('00:00') ? date.slice(5) : time.slice(0, 5)
}

const sizeOf = (box) => ({ width: Math.max(120, box.clientWidth), height: box.clientHeight })
const colourOf = (node) => getComputedStyle(node).color

// Draws into `box`; `keys` are the elements of the legend, whose colours the lines take; `none` is how high the axis goes where all
// is nothing. {update, destroy}.
export function plot(box, { data, words, format, none, keys }) {
  const ink = colourOf(box)
  const line = getComputedStyle(box).borderBottomColor
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: `12px ${getComputedStyle(box).fontFamily}` }
  const options = {
    ...sizeOf(box),
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
    padding: [8, 16, 0, 0],
    axes: [
      { ...axis, space: 70, size: 26, values: (_, ticks, __, ___, step) => ticks.map((tick) => moment(tick, step)) },
      { ...axis, space: 28, size: 56, incrs: STEPS, values: (_, ticks) => ticks.map((tick) => format(tick)) },
    ],
    scales: { x: { range: ends }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : none] } },
    series: [
      {},
      ...words.map(({ fill }, at) => {
        const stroke = colourOf(keys[at])
        const faint = fill && stroke.replace('rgb(', 'rgba(').replace(')', ', 0.12)')
        return { stroke, width: 1.5, fill: faint, points: { show: (chart) => chart.data[0].length === 1, size: 5 }, spanGaps: false }
      }),
    ],
    hooks: { setCursor: [(chart) => box.dispatchEvent(new CustomEvent('seen', { detail: chart.cursor.idx ?? null }))] },
  }
  const chart = new UPlot(options, data, box)
  const watch = new ResizeObserver(() => chart.setSize(sizeOf(box)))
  watch.observe(box)
  return {
    update: (fresh) => chart.setData(fresh),
    destroy: () => {
      watch.disconnect()
      chart.destroy()
    },
  }
}
