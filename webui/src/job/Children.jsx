// The jobs of a group as a map: each a cell that leads to it, by state, or darker the longer or dearer; the odd ones stand out.
import { signal } from '@preact/signals'
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { count, duration, money } from '../format.js'
import { shownState } from '../jobs/columns.jsx'
import { Fault, Glyph } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'

const SHOWN = 1_000
const SHADES = 6
const FIELDS = 'id,title,state,paused,run_s,cost_micro,errors'
const MODES = {
  state: ['State', null],
  time: ['Time', (job) => job.run_s],
  cost: ['Cost', (job) => job.cost_micro],
  errors: ['Errors', (job) => job.errors],
}
const mode = signal('state')

function valueWords(name, value, currency) {
  if (name === 'time') return duration(value)
  return name === 'cost' ? money(value, currency) : count(value)
}

function Cell({ job, value, most, words }) {
  const shade = value > 0 ? Math.max(1, Math.ceil((SHADES * value) / most)) : 0
  const title = job.title || `job ${job.id}`
  return (
    <Link to={{ job: job.id }} title={words ? `${title}: ${words}` : title}>
      {words ? <span class={`cell shade-${shade}`} role="img" aria-label={`${title}: ${words}`} /> : <Glyph state={shownState(job)} />}
    </Link>
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
          <Cell key={child.id} job={child} value={values[at]} most={most} words={measure && valueWords(mode.value, values[at], currency)} />
        ))}
      </div>
      {measure && most > 0 && (
        <p class="scale">
          <span class="cell shade-0" /> none
          {[2, 4, 6].map((shade) => (
            <span key={shade}>
              <span class={`cell shade-${shade}`} /> {valueWords(mode.value, (most * shade) / SHADES, currency)}
            </span>
          ))}
        </p>
      )}
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
