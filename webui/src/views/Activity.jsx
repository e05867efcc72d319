// Activity: what happened on the farm and who did it, newest first, and the audit; the filters stand in the address.
import { useMemo, useState } from 'preact/hooks'
import * as api from '../api.js'
import { Audit } from '../activity/Audit.jsx'
import { Older, usePages } from '../activity/pages.jsx'
import { duration } from '../format.js'
import { Ago, Empty, Fault, Loading, Modes, Section } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { now, useLive } from '../poll.js'

const PAGE = 200
const SPANS = { '': 'ever', 3600: 'the last hour', 86400: 'the last day', 604800: 'the last week', 2592000: 'the last 30 days' }
const NONE = { kind: '', user: '', since: '', from: '', job: 0, worker: 0 }

const sinceOf = (since) => (since ? Math.floor((now.peek() - Number(since)) / 60) * 60 : null)

function query() {
  const { kind, user, since, job, worker } = place.value
  return { kind, user, job: job || null, below: job ? 1 : null, worker: worker || null, since: sinceOf(since), limit: PAGE }
}

const names = () => api.workers({ fields: 'id,name' })

// A worker is named, and asked for by its number.
function WorkerField() {
  const { data } = useLive('workers:names', names, 5)
  const workers = data || []
  const { worker } = place.value
  const [unknown, setUnknown] = useState('')
  const name = workers.find((one) => one.id === worker)?.name ?? (worker ? `#${worker}` : '')
  const choose = (event) => {
    const text = event.target.value.trim()
    const found = workers.find((one) => one.name === text || `#${one.id}` === text)
    if (found || !text) go({ worker: found?.id ?? 0 }, true)
    setUnknown(found || !text ? '' : text)
  }
  return (
    <>
      <input aria-label="Worker" placeholder="Worker" list="worker-names" key={name} defaultValue={name} disabled={!data} onChange={choose} />
      <datalist id="worker-names">
        {workers.slice(0, 2_000).map((one) => (
          <option key={one.id} value={one.name} />
        ))}
      </datalist>
      {unknown && <span class="trouble" role="alert">There is no worker {unknown}.</span>}
    </>
  )
}

function Filters({ audit }) {
  const { kind, user, since, from, job, worker } = place.value
  const set = (name) => (event) => go({ [name]: event.target.value.trim() }, true)
  const setJob = (event) => go({ job: Number(event.target.value.replace('#', '')) || 0 }, true)
  return (
    <div class="filters" role="search">
      <input aria-label="Kind" placeholder={audit ? 'Kind, as job' : 'Kind, as job.reset'} value={kind} onChange={set('kind')} />
      <input aria-label="User" placeholder="User" value={user} onChange={set('user')} />
      {audit && <input aria-label="From" placeholder="From, as 10.0.0.7" value={from} onChange={set('from')} />}
      {!audit && <input aria-label="Job" placeholder="Job, by its number" inputMode="numeric" value={job ? `#${job}` : ''} onChange={setJob} />}
      {!audit && <WorkerField />}
      <select aria-label="Time" value={since} onChange={set('since')}>
        {Object.entries(SPANS).map(([seconds, word]) => (
          <option key={seconds} value={seconds}>
            {word}
          </option>
        ))}
      </select>
      {(kind || user || since || from || job > 0 || worker > 0) && (
        <button type="button" class="plain" onClick={() => go(NONE)}>
          Clear
        </button>
      )}
    </div>
  )
}

function Event({ event, names }) {
  return (
    <tr>
      <td class="when">
        <Ago at={event.at} />
      </td>
      <td class="who">
        {event.who ? (
          <button type="button" class="plain" title={event.who} onClick={() => go({ user: event.who })}>
            {event.who}
          </button>
        ) : (
          <span class="of">the farm</span>
        )}
      </td>
      <td class="kind">
        <button type="button" class="plain" onClick={() => go({ kind: event.kind })}>
          {event.kind}
        </button>
      </td>
      <td class="words">
        {event.job > 0 && <Link to={{ job: event.job }} class="job-link">#{event.job}</Link>}{' '}
        {event.worker > 0 && <Link to={{ view: 'workers', worker: event.worker, job: 0 }} class="job-link">{names.get(event.worker) ?? `worker ${event.worker}`}</Link>} <span>{event.text}</span>
      </td>
    </tr>
  )
}

// How long a job or a worker was at it: its runs, beside what happened to it.
function Runs() {
  const { job, worker, since } = place.value
  const workers = useLive('workers:names', names, 5).data || []
  const name = workers.find((one) => one.id === worker)?.name
  const asked = { job: job || null, worker: name || null, since: sinceOf(since), limit: PAGE }
  const { data, error } = useLive(job || name ? `runs:${JSON.stringify(asked)}` : null, () => api.allAttempts(asked), 5)
  if (!data?.length) return <Fault error={error} />
  const ended = data.filter((run) => run.ended_at)
  const mean = ended.reduce((sum, run) => sum + run.run_s, 0) / (ended.length || 1)
  const longest = ended.reduce((most, run) => (run.run_s > (most?.run_s ?? -1) ? run : most), null)
  return (
    <p class="hint" role="status">
      {data.length === PAGE ? `The last ${PAGE}` : data.length} runs
      {longest && (
        <>
          , {duration(mean)} on average, the longest {duration(longest.run_s)} (<Link to={{ job: longest.job }} class="job-link">#{longest.job}</Link>)
        </>
      )}
    </p>
  )
}

function Events() {
  const asked = query()
  const { data, error } = useLive(`events:${JSON.stringify(asked)}`, () => api.events(asked), 3)
  const { rows, more } = usePages(data, asked, api.events)
  const workers = useLive('workers:names', names, 5).data
  const byId = useMemo(() => new Map((workers || []).map((one) => [one.id, one.name])), [workers])
  return (
    <>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>Nothing happened that fits.</Empty>}
      {data?.length > 0 && (
        <>
          <table class="events">
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col">Who</th>
                <th scope="col">What</th>
                <th scope="col">Details</th>
              </tr>
            </thead>
            <tbody>
              {rows.map((event) => (
                <Event key={event.id} event={event} names={byId} />
              ))}
            </tbody>
          </table>
          {rows.length % PAGE === 0 && <Older more={more} />}
        </>
      )}
    </>
  )
}

export function Activity({ server }) {
  const audits = server.rights ? server.rights.includes('admin') : server.role === 'admin'
  const audit = audits && place.value.by === 'audit'
  const lead = audits && <Modes label="What is shown" value={audit ? 'audit' : 'events'} words={{ events: 'Events', audit: 'Audit' }} onChoose={(one) => go({ ...NONE, by: one === 'audit' ? one : '' })} />
  return (
    <Section name="activity" title="Activity" lead={lead}>
      <Filters audit={audit} />
      {audit ? <Audit page={PAGE} since={sinceOf(place.value.since)} /> : <><Runs /><Events /></>}
    </Section>
  )
}
