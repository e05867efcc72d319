// The columns of the list of jobs: what each shows, and which of them the reader wants, how wide and in which order.
import { signal } from '@preact/signals'
import { useRef } from 'preact/hooks'
import { count, duration, exact, moneyCell, percent } from '../format.js'
import { Address } from '../job/Address.jsx'
import { Ago, Bar, Lasting, Popup, State } from '../parts.jsx'

const KEY = 'coalition.columns'
const NAME_MIN = 150

// PAUSED is a flag beside the state; it is what the reader wants to know of a job that would otherwise run.
export const shownState = (job) => (job.paused && !['FINISHED', 'ERROR', 'WORKING'].includes(job.state) ? 'PAUSED' : job.state)

// Without a pattern in its output nobody knows how far a job is; a bar at nothing would be a guess.
const tellsProgress = (job) => job.state === 'WORKING' && (job.progress > 0 || job.progress_pattern)

export function Progress({ job }) {
  const { counts } = job
  if (counts?.total) {
    const label = `${count(counts.finished)} finished, ${count(counts.working)} working and ${count(counts.error)} with errors of ${count(counts.total)}`
    const parts = [
      { amount: counts.finished, tone: 'good' },
      { amount: counts.error, tone: 'bad' },
      { amount: counts.working, tone: 'alive' },
    ]
    return <Bar whole={counts.total} parts={parts} label={label} />
  }
  if (!tellsProgress(job)) return null
  return <Bar whole={1} parts={[{ amount: job.progress, tone: 'alive' }]} label={percent(job.progress)} />
}

function Done({ job }) {
  const { counts } = job
  if (!counts) return tellsProgress(job) ? percent(job.progress) : ''
  return (
    <>
      {counts.error > 0 && (
        <span class="bad" title={`${count(counts.error)} with errors`}>
          {count(counts.error)} ✕{' '}
        </span>
      )}
      {count(counts.finished)}
      <span class="of"> / {count(counts.total)}</span>
    </>
  )
}

// At the pace so far; nothing, where there is no pace yet.
export function leftOf(job, now) {
  if (job.state !== 'WORKING' || !job.started_at || !(job.progress > 0.01 && job.progress < 1)) return null
  return ((now - job.started_at) / job.progress) * (1 - job.progress)
}

const Time = ({ job }) => (job.group || job.state === 'WORKING' ? <Lasting from={job.started_at} to={job.ended_at} /> : job.run_s > 0 && duration(job.run_s))

// name: [word, width in px, what it shows, {number, sort, title, worth}]; the least worth goes first where there is no room.
export const COLUMNS = {
  name: ['Job', 0, null, { sort: 'title', worth: 99 }],
  state: ['State', 92, (job) => <State state={shownState(job)} />, { worth: 90 }],
  progress: ['Progress', 96, (job) => <Progress job={job} />, { sort: 'progress', worth: 50 }],
  done: ['Done', 104, (job) => <Done job={job} />, { number: true, worth: 80 }],
  left: ['Left', 72, (job, { now }) => { const s = leftOf(job, now); return s === null ? '' : `~${duration(s)}` }, { number: true, worth: 30 }],
  user: ['User', 84, (job) => job.user, { title: (job) => job.user, worth: 45 }],
  priority: ['Priority', 60, (job) => job.priority, { number: true, sort: 'priority', worth: 40 }],
  affinity: ['Affinity', 110, (job) => job.affinity.join(' '), { title: (job) => job.affinity.join(' '), worth: 10 }],
  worker: ['Worker', 110, (job) => job.worker, { title: (job) => job.worker, worth: 25 }],
  time: ['Time', 88, (job) => <Time job={job} />, { number: true, title: (job) => `submitted ${exact(job.created_at)}`, worth: 70 }],
  cost: ['Cost', 78, (job, { currency }) => moneyCell(job.cost_micro, currency), { number: true, worth: 60 }],
  errors: ['Errors', 60, (job) => (job.errors ? count(job.errors) : ''), { number: true, worth: 9 }],
  created: ['Submitted', 92, (job) => <Ago at={job.created_at} />, { number: true, sort: 'id', worth: 20 }],
  started: ['Started', 92, (job) => <Ago at={job.started_at} />, { number: true, sort: 'started', worth: 8 }],
  ended: ['Ended', 92, (job) => <Ago at={job.ended_at} />, { number: true, sort: 'ended', worth: 7 }],
  reason: ['Why', 260, (job) => job.reason, { title: (job) => job.reason, worth: 15 }],
  url: ['Address', 160, (job) => job.url && <Address url={job.url} />, { title: (job) => job.url, worth: 6 }],
  id: ['Number', 72, (job) => job.id, { number: true, sort: 'id', worth: 5 }],
}
const USUAL = ['name', 'state', 'progress', 'done', 'left', 'user', 'priority', 'worker', 'time', 'cost', 'reason']

function kept() {
  try {
    const { order, widths } = JSON.parse(localStorage.getItem(KEY))
    const known = order.filter((name) => COLUMNS[name])
    if (known.includes('name')) return { order: known, widths: widths || {} }
  } catch {
    // nothing kept, or by another version
  }
  return { order: USUAL, widths: {} }
}

export const layout = signal(kept())

function keep(changes) {
  layout.value = { ...layout.value, ...changes }
  localStorage.setItem(KEY, JSON.stringify(layout.value))
}

const widthOf = (name) => layout.value.widths[name] || COLUMNS[name][1]
// Widths are those of the usual letters; on very wide screens they are larger.
const scale = () => Math.max(1, parseFloat(getComputedStyle(document.documentElement).fontSize) / 14)

// What the reader added to the usual ones goes after most of these.
const worthOf = (name) => COLUMNS[name][3].worth + (USUAL.includes(name) ? 0 : 60)

// The columns that fit a width, in their order, and the grid's template for them.
export function fitting(width) {
  const narrow = width < 460
  const larger = scale()
  const size = (name) => Math.round((narrow && name === 'state' ? 14 : widthOf(name)) * larger) + (narrow ? 10 : 14)
  let names = layout.value.order
  const left = () => width - 28 - names.filter((name) => name !== 'name').reduce((sum, name) => sum + size(name), 0)
  while (left() < NAME_MIN && names.length > 3) {
    const least = names.reduce((a, b) => (worthOf(a) < worthOf(b) ? a : b))
    names = names.filter((name) => name !== least)
  }
  const template = names.map((name) => (name === 'name' ? 'minmax(0, 1fr)' : `${size(name) - (narrow ? 10 : 14)}px`)).join(' ')
  return { names, template, narrow }
}

export function Resizer({ name }) {
  const from = useRef(null)
  const drag = (event) => {
    if (!from.current) return
    const width = Math.max(24, from.current.width + from.current.x - event.clientX)
    keep({ widths: { ...layout.value.widths, [name]: Math.round(width) } })
  }
  const grab = (event) => {
    event.preventDefault()
    event.stopPropagation()
    event.currentTarget.setPointerCapture(event.pointerId)
    from.current = { x: event.clientX, width: widthOf(name) }
  }
  const drop = () => {
    from.current = null
  }
  return <span class="resizer" aria-hidden="true" onPointerDown={grab} onPointerMove={drag} onPointerUp={drop} onClick={(event) => event.stopPropagation()} />
}

export function ColumnsMenu() {
  const { order } = layout.value
  const all = [...order, ...Object.keys(COLUMNS).filter((name) => !order.includes(name))]
  const flip = (name) => keep({ order: order.includes(name) ? order.filter((one) => one !== name) : [...order, name] })
  const size = (name, width) => width >= 24 && keep({ widths: { ...layout.value.widths, [name]: width } })
  const up = (name) => {
    const at = order.indexOf(name)
    const next = [...order]
    next.splice(at - 1, 2, name, order[at - 1])
    keep({ order: next })
  }
  return (
    <Popup label="Columns">
      <ul class="plain-list columns-menu">
        {all.map((name, at) => (
          <li key={name}>
            <label>
              <input type="checkbox" checked={order.includes(name)} disabled={name === 'name'} onChange={() => flip(name)} /> {COLUMNS[name][0]}
            </label>
            {name !== 'name' && order.includes(name) && (
              <input type="number" min={24} max={800} step={8} value={widthOf(name)} aria-label={`Width of ${COLUMNS[name][0]}, in pixels`} onChange={(event) => size(name, Number(event.target.value))} />
            )}
            {at > 0 && at < order.length && (
              <button type="button" class="plain" aria-label={`Move ${COLUMNS[name][0]} to the left`} onClick={() => up(name)}>
                ↑
              </button>
            )}
          </li>
        ))}
      </ul>
      <button type="button" class="plain" onClick={() => keep({ order: USUAL, widths: {} })}>
        As at first
      </button>
    </Popup>
  )
}
