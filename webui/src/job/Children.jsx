// The jobs of a group as a map: each a cell that leads to it, by state, or darker the longer or dearer; the odd ones stand out.
import { signal } from '@preact/signals'
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, duration, money } from '../format.js'
import { shownState } from '../jobs/columns.jsx'
import { Fault, Glyph } from '../parts.jsx'
import { Link } from '../place.jsx'
import { now, useLive } from '../poll.js'
import { Gantt } from './Timeline.jsx'

const SHOWN = 1_000
const SHADES = 6
const FIELDS = 'id,title,state,paused,run_s,cost_micro,errors,used_memory_bytes,started_at,ended_at,worker'
const LANES = 60
const MODES = {
  state: ['State', null],
  time: ['Time', (job) => job.run_s],
  memory: ['Memory', (job) => job.used_memory_bytes],
  cost: ['Cost', (job) => job.cost_micro],
  errors: ['Errors', (job) => job.errors],
}
const mode = signal('state')

function valueWords(name, value, currency) {
  if (name === 'time') return duration(value)
  if (name === 'memory') return bytes(value)
  return name === 'cost' ? money(value, currency) : count(value)
}

// However dark: what failed has a frame, what runs yet a dashed one.
const KIND = { ERROR: ' failed', WORKING: ' runs' }
const WORDS = { ERROR: ', error', WORKING: ' so far' }

function Cell({ job, value, most, words }) {
  const shade = value > 0 ? Math.max(1, Math.ceil((SHADES * value) / most)) : 0
  const title = job.title || `job ${job.id}`
  return (
    <Link to={{ job: job.id }} title={words ? `${title}: ${words}` : title}>
      {words ? <span class={`cell shade-${shade}${KIND[job.state] || ''}`} role="img" aria-label={`${title}: ${words}`} /> : <Glyph state={shownState(job)} />}
    </Link>
  )
}

// The frames that ran last, each a bar from its start to its end.
function Frames({ jobs }) {
  const ran = jobs.filter((job) => job.started_at).sort((a, b) => b.started_at - a.started_at).slice(0, LANES)
  const runs = ran.map((job) => ({ ...job, leased_at: job.started_at, state: job.state === 'WORKING' ? 'RUNNING' : job.state }))
  if (runs.length < 2) return null
  const words = (run) => `${run.title || `job ${run.id}`}, ${run.state.toLowerCase()}${run.worker ? ` on ${run.worker}` : ''}`
  return (
    <details class="frames">
      <summary>Timeline of the last {runs.length} that ran</summary>
      <Gantt attempts={runs} now={now.value} words={words} to={(run) => ({ job: run.id })} />
    </details>
  )
}

export function Children({ job, currency }) {
  const [cursors, setCursors] = useState([''])
  const cursor = cursors[cursors.length - 1]
  const load = () => api.page({ parent: job.id, sort: 'id', limit: SHOWN, fields: FIELDS, cursor })
  const { data, error } = useLive(`children:${job.id}:${cursor}`, load, 3)
  if (!data) return <Fault error={error} />
  const [, measure] = MODES[mode.value]
  const values = measure ? data.jobs.map(measure) : []
  const most = Math.max(...values, 0)
  return (
    <section class="children">
      <h3>
        In this group
        <span class="modes" role="group" aria-label="What the map shows">
          {Object.entries(MODES).map(([name, [word]]) => (
            <button key={name} type="button" class="plain" aria-pressed={mode.value === name} onClick={() => (mode.value = name)}>
              {word}
            </button>
          ))}
        </span>
        <Link to={{ view: 'jobs', parent: job.id, job: 0, filter: '' }}>List them</Link>
      </h3>
      <div class="glyphs">
        {data.jobs.map((child, at) => (
          <Cell key={child.id} job={child} value={values[at]} most={most} words={measure && `${valueWords(mode.value, values[at], currency)}${WORDS[child.state] || ''}`} />
        ))}
      </div>
      {measure && most > 0 && (
        <p class="scale">
          <span>
            <span class="cell shade-0" /> none
          </span>
          <span>
            <span class="cell shade-0 failed" /> error
          </span>
          <span>
            <span class="cell shade-0 runs" /> runs yet
          </span>
          {[2, 4, 6].map((shade) => (
            <span key={shade}>
              <span class={`cell shade-${shade}`} /> {valueWords(mode.value, (most * shade) / SHADES, currency)}
            </span>
          ))}
        </p>
      )}
      <Frames jobs={data.jobs} />
      {(data.next || cursors.length > 1) && (
        <p class="pager">
          {count((cursors.length - 1) * SHOWN + 1)} to {count((cursors.length - 1) * SHOWN + data.jobs.length)}
          <button type="button" disabled={cursors.length < 2} onClick={() => setCursors(cursors.slice(0, -1))}>
            Previous
          </button>
          <button type="button" disabled={!data.next} onClick={() => setCursors([...cursors, data.next])}>
            Next
          </button>
        </p>
      )}
    </section>
  )
}
