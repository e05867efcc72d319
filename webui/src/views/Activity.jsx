// Activity: what happened on the farm and who did it, newest first, with filters that stand in the address.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { Ago, Empty, Fault, Loading, Section } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { now, useLive } from '../poll.js'

const PAGE = 200
const SPANS = { '': 'ever', 3600: 'the last hour', 86400: 'the last day', 604800: 'the last week' }

function query() {
  const { kind, user, since, job, worker } = place.value
  return { kind, user, job: job || null, worker: worker || null, since: since ? Math.floor((now.peek() - Number(since)) / 60) * 60 : null, limit: PAGE }
}

function Filters() {
  const { kind, user, since, job, worker } = place.value
  const set = (name) => (event) => go({ [name]: event.target.value.trim() }, true)
  return (
    <div class="filters" role="search">
      <input aria-label="Kind" placeholder="Kind, such as job.reset" value={kind} onChange={set('kind')} />
      <input aria-label="User" placeholder="User" value={user} onChange={set('user')} />
      <select aria-label="Time" value={since} onChange={set('since')}>
        {Object.entries(SPANS).map(([seconds, word]) => (
          <option key={seconds} value={seconds}>
            {word}
          </option>
        ))}
      </select>
      {(kind || user || since || job > 0 || worker > 0) && (
        <button type="button" class="plain" onClick={() => go({ kind: '', user: '', since: '', job: 0, worker: 0 })}>
          Clear
        </button>
      )}
    </div>
  )
}

function Event({ event }) {
  return (
    <tr>
      <td class="when">
        <Ago at={event.at} />
      </td>
      <td class="who">
        {event.who ? (
          <button type="button" class="plain" onClick={() => go({ user: event.who })}>
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
        {event.job > 0 && <Link to={{ job: event.job }} class="job-link">#{event.job}</Link>} {event.text}
      </td>
    </tr>
  )
}

export function Activity() {
  const [older, setOlder] = useState([])
  const asked = query()
  const key = JSON.stringify(asked)
  const { data, error } = useLive(`events:${key}`, () => api.events(asked), 2)
  const [olderOf, setOlderOf] = useState('')
  const rows = data && olderOf === key ? [...data, ...older.filter((event) => event.id < data[data.length - 1]?.id)] : data
  const more = async () => {
    const next = await api.events({ ...asked, before: rows[rows.length - 1].id })
    setOlder([...rows.slice(-(rows.length - data.length) || rows.length), ...next])
    setOlderOf(key)
  }
  return (
    <Section name="activity" title="Activity" lead={<Filters />}>
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
                <Event key={event.id} event={event} />
              ))}
            </tbody>
          </table>
          {rows.length % PAGE === 0 && (
            <p class="pager">
              <button type="button" onClick={more}>
                Older
              </button>
            </p>
          )}
        </>
      )}
    </Section>
  )
}
