// One chart over time: lines on a canvas, what they are at the place of the pointer (else now), and the same as a table.
import { useEffect, useRef, useState } from 'preact/hooks'
import { exact } from '../format.js'
import { theme } from '../theme.js'

// Gaps in what was noted are gaps of the lines.
function columnsOf(points, series, step) {
  const at = []
  const columns = series.map(() => [])
  for (const point of points) {
    if (at.length && point.at - at[at.length - 1] > 2.5 * step) {
      at.push(at[at.length - 1] + step)
      columns.forEach((column) => column.push(null))
    }
    at.push(point.at)
    series.forEach(({ of }, n) => columns[n].push(of(point)))
  }
  return [at, ...columns]
}

function Table({ title, points, series, format }) {
  return (
    <div class="chart-table" tabIndex={0} role="region" aria-label={`${title} as a table`}>
      <table>
        <thead>
          <tr>
            <th scope="col">Time</th>
            {series.map(({ word }) => (
              <th key={word} scope="col" class="number">{word}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {points.toReversed().map((point) => (
            <tr key={point.at}>
              <th scope="row">{exact(point.at)}</th>
              {series.map(({ word, of }) => (
                <td key={word} class="number">{format(of(point))}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

// `series`: [{word, tone, of, fill}]; `format` shows a number; `none`: the top of the axis where there is nothing to draw.
export function Chart({ title, points, series, step, format, none = 1 }) {
  const box = useRef(null)
  const legend = useRef(null)
  const drawn = useRef(null)
  const [seen, setSeen] = useState(null)
  const [open, setOpen] = useState(false)
  const [failed, setFailed] = useState(false)
  const data = columnsOf(points, series, step)
  useEffect(() => {
    let current = true
    const begin = async () => {
      const { plot } = await import('./plot.js')
      if (!current) return
      drawn.current = plot(box.current, { data, words: series, format, none, keys: [...legend.current.querySelectorAll('.key')] })
    }
    begin().catch(() => current && setFailed(true)) // the table says the same
    const look = matchMedia('(prefers-color-scheme: dark)')
    const onSeen = ({ detail }) => setSeen(detail)
    const again = () => {
      drawn.current?.destroy()
      begin()
    }
    box.current.addEventListener('seen', onSeen)
    look.addEventListener('change', again)
    return () => {
      current = false
      look.removeEventListener('change', again)
      drawn.current?.destroy()
      drawn.current = null
    }
  }, [theme.value])
  useEffect(() => drawn.current?.update(data), [points])
  const at = seen !== null && data[0][seen] !== undefined ? seen : data[0].length - 1
  const now = series.map(({ word }, n) => `${word} ${format(data[n + 1][at] ?? 0)}`).join(', ')
  return (
    <figure class="chart">
      <figcaption ref={legend}>
        <strong>{title}</strong>
        {series.map(({ word, tone }, n) => (
          <span key={word}>
            <i class={`key line ${tone}`} /> {word} <b>{format(data[n + 1][at] ?? 0)}</b>
          </span>
        ))}
        {seen !== null && data[0][at] !== undefined && <span class="of">{exact(data[0][at])}</span>}
      </figcaption>
      <div class="plot" ref={box} role="img" aria-label={`${title} over time; ${now}. The numbers are in the table.`} />
      {failed && <p class="hint">The chart could not be loaded; its numbers are in the table.</p>}
      <button type="button" class="plain" aria-expanded={open} onClick={() => setOpen(!open)} aria-label={`${title}: ${open ? 'hide the table' : 'as a table'}`}>
        {open ? 'Hide the table' : 'As a table'}
      </button>
      {open && <Table {...{ title, points, series, format }} />}
    </figure>
  )
}
