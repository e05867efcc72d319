// The farm's name, the way around, and the numbers that a supervisor glances at.
import { useEffect, useRef } from 'preact/hooks'
import * as api from '../api.js'
import { clock, count, money } from '../format.js'
import { Bar } from '../parts.jsx'
import { isFor, Link, LIST, place, VIEWS } from '../place.jsx'
import { link, now, signOut, useLive } from '../poll.js'
import { nextTheme, theme } from '../theme.js'

const THEMES = { system: '◐', light: '○', dark: '●' }

function Connection() {
  const { online, answered } = link.value
  if (online) return answered > 0 && <span class="connection live">live</span>
  return (
    <span class="connection stale" role="status">
      {answered ? `stale since ${clock(answered)}` : 'no answer from the server'}, trying again
    </span>
  )
}

export function Header({ server }) {
  const nav = useRef(null)
  // on a narrow screen the views are a strip that is scrolled
  useEffect(() => nav.current.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' }), [place.value.view])
  return (
    <header class="top">
      <Link to={{ view: 'farm', ...LIST }} class="brand">
        <img src="/favicon.svg" alt="" width="20" height="20" />
        <h1>{server ? server.farm : 'Coalition'}</h1>
      </Link>
      <nav aria-label="Views" ref={nav}>
        {Object.entries(VIEWS).filter(([view]) => isFor(server, view)).map(([view, word]) => (
          <Link key={view} to={{ view, job: 0, worker: 0, by: '', ...(view === 'money' && { parent: 0 }) }} aria-current={place.value.view === view ? 'page' : undefined}>
            {word}
          </Link>
        ))}
      </nav>
      <div class="corner">
        <Connection />
        {server?.user && <span class="user">{server.user}</span>}
        {(api.token.value || server?.csrf) && (
          <button type="button" class="plain" onClick={signOut}>
            Sign out
          </button>
        )}
        <button type="button" class="plain theme" onClick={nextTheme} title={`Theme: ${theme.value}`} aria-label={`Theme: ${theme.value}. Change it`}>
          {THEMES[theme.value]}
        </button>
      </div>
    </header>
  )
}

const COUNTS = [
  ['waiting', 'Waiting'],
  ['pending', 'Pending'],
  ['working', 'Working'],
  ['error', 'Errors'],
]

const COUNTED = 100 // where the server does not count them, as for who sees own jobs only

// What was finished since midnight (UTC).
function DoneToday() {
  const day = new Date(now.value * 1000).toISOString().slice(0, 10)
  const filter = `state:FINISHED group:no ended>${day}`
  const { data } = useLive(`done:${day}`, () => api.page({ filter, limit: COUNTED, fields: 'id' }), 5)
  const chosen = place.value.view === 'jobs' && place.value.filter === filter
  const n = data && (data.total ?? data.jobs.length)
  const more = data && (data.total === null ? data.next !== null : data.more)
  return (
    <Link to={{ ...LIST, view: 'jobs', filter: chosen ? '' : filter }} class={n ? 'vital finished' : 'vital finished none'} aria-current={chosen ? 'true' : undefined}>
      <span class="figure">{n === undefined ? '–' : count(n)}{more ? '+' : ''}</span>
      <span class="label">Done today</span>
    </Link>
  )
}

// A count of jobs; it leads to the list of them.
function JobCount({ name, word, value }) {
  const filter = `state:${name.toUpperCase()} group:no`
  const chosen = place.value.view === 'jobs' && place.value.filter === filter
  const to = { ...LIST, view: 'jobs', filter: chosen ? '' : filter }
  return (
    <Link to={to} class={value ? `vital ${name}` : `vital ${name} none`} aria-current={chosen ? 'true' : undefined}>
      <span class="figure">{value === undefined ? '–' : count(value)}</span>
      <span class="label">{word}</span>
    </Link>
  )
}

export function Vitals({ farm }) {
  const slots = farm?.slots
  return (
    <div class="vitals" aria-label="The farm now">
      <div class="counts">
        {COUNTS.map(([name, word]) => (
          <JobCount key={name} name={name} word={word} value={farm?.jobs[name] ?? (farm ? 0 : undefined)} />
        ))}
        <DoneToday />
      </div>
      <div class="vital slots">
        <span class="figure">
          {slots ? count(slots.busy) : '–'}
          <small> / {slots ? count(slots.total) : '–'}</small>
        </span>
        <span class="label">Slots busy</span>
        {slots && <Bar whole={slots.total} parts={[{ amount: slots.busy, tone: 'alive' }]} label={`${slots.busy} of ${slots.total} slots are busy`} />}
      </div>
      <div class="vital burn">
        <span class="figure">
          {farm ? money(farm.burn_micro_per_hour, farm.currency) : '–'}
          <small> / h</small>
        </span>
        <span class="label">Burn</span>
      </div>
    </div>
  )
}
