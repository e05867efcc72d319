// Who did what from where, with what it was before and is after; for admins.
import * as api from '../api.js'
import { Ago, Empty, Fault, Loading } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { useLive } from '../poll.js'
import { Older, usePages } from './pages.jsx'

const MOST = 120 // characters of a value

function words(value) {
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  const shown = value === null || text === '' || text === undefined ? 'nothing' : text
  return shown.length > MOST ? `${shown.slice(0, MOST)} …` : shown
}

function Changes({ before, after }) {
  return Object.keys({ ...before, ...after }).map((name) => (
    <span key={name} class="change">
      {name}: {before[name] !== undefined && <del>{words(before[name])}</del>} <ins>{words(after[name])}</ins>
    </span>
  ))
}

function Row({ row }) {
  return (
    <tr>
      <td class="when">
        <Ago at={row.at} />
      </td>
      <td class="who">
        <button type="button" class="plain" title={row.who} onClick={() => go({ user: row.who })}>
          {row.who || 'not known'}
        </button>
      </td>
      <td class="who">
        <button type="button" class="plain" onClick={() => go({ from: row.address })}>
          {row.address}
        </button>
      </td>
      <td class="kind">
        <button type="button" class="plain" onClick={() => go({ kind: row.kind })}>
          {row.kind}
        </button>
      </td>
      <td class="words">
        {row.job > 0 && <Link to={{ job: row.job }} class="job-link">#{row.job}</Link>} <span>{row.text}</span> <Changes before={row.before || {}} after={row.after || {}} />
      </td>
    </tr>
  )
}

export function Audit({ page, since }) {
  const { kind, user, from } = place.value
  const asked = { kind, user, address: from, since, limit: page }
  const { data, error } = useLive(`audit:${JSON.stringify(asked)}`, () => api.audit(asked), 3)
  const { rows, more } = usePages(data, asked, api.audit)
  return (
    <>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>Nobody did anything that fits.</Empty>}
      {data?.length > 0 && (
        <table class="events audit">
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col">Who</th>
              <th scope="col">From</th>
              <th scope="col">What</th>
              <th scope="col">Details</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <Row key={row.id} row={row} />
            ))}
          </tbody>
        </table>
      )}
      {rows?.length > 0 && rows.length % page === 0 && <Older more={more} />}
    </>
  )
}
