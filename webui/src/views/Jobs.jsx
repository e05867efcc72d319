// The tree of jobs: groups open in place, one page of each at a time.
import { signal } from '@preact/signals'
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { count, duration, exact, moneyCell, percent } from '../format.js'
import { Bar, Empty, Fault, Lasting, Loading, Section, State } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { useLive } from '../poll.js'

const PAGE = 50 // of a group
const opened = signal(new Set()) // the groups that are open
const focused = signal(0) // the row that Tab reaches

// Opens or closes a group.
export function toggle(id, open) {
  const next = new Set(opened.value)
  if (open) next.add(id)
  else next.delete(id)
  opened.value = next
}

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

function Twist({ job, open }) {
  if (!job.group) return <span class="twist" />
  const flip = (event) => {
    event.stopPropagation()
    toggle(job.id, !open)
  }
  return (
    <button type="button" class={open ? 'twist open' : 'twist'} tabIndex={-1} onClick={flip} aria-label={open ? 'Close the group' : 'Open the group'}>
      <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
        <path d="M4 2.5 8 6 4 9.5" />
      </svg>
    </button>
  )
}

function Row({ job, depth, currency, first }) {
  const open = opened.value.has(job.id)
  const selected = place.value.job === job.id
  const reachable = focused.value ? focused.value === job.id : first
  return (
    <div
      class={selected ? 'row selected' : 'row'}
      role="row"
      data-job={job.id}
      aria-level={depth + 1}
      aria-expanded={job.group ? open : undefined}
      aria-selected={selected}
      tabIndex={reachable ? 0 : -1}
      onFocus={() => (focused.value = job.id)}
      onClick={() => go({ job: job.id })}
      onDblClick={() => job.group && go({ parent: job.id, job: 0, state: '', title: '' })}
    >
      <span role="gridcell" class="name" style={{ paddingInlineStart: `${depth * 1.25}rem` }}>
        <Twist job={job} open={open} />
        <span class="title" title={job.title}>
          {job.title || `job ${job.id}`}
        </span>
      </span>
      <span role="gridcell" class="state-cell">
        <State state={shownState(job)} />
      </span>
      <span role="gridcell" class="progress">
        <Progress job={job} />
      </span>
      <span role="gridcell" class="number done">
        <Done job={job} />
      </span>
      <span role="gridcell" class="user" title={job.user}>{job.user}</span>
      <span role="gridcell" class="number priority">{job.priority}</span>
      <span role="gridcell" class="number time" title={`submitted ${exact(job.created_at)}`}>
        {job.ended_at && !job.group ? duration(job.run_s) : <Lasting from={job.started_at} to={job.ended_at} />}
      </span>
      <span role="gridcell" class="number cost">{moneyCell(job.cost_micro, currency)}</span>
    </div>
  )
}

// One page of the jobs that `query` finds, each with the level below it if it is open.
function Level({ query, depth, currency, none, size = PAGE }) {
  const [cursors, setCursors] = useState([''])
  const cursor = cursors[cursors.length - 1]
  const key = `jobs:${JSON.stringify({ ...query, cursor })}`
  const { data, error } = useLive(key, () => api.page({ ...query, limit: size, cursor }))
  const from = (cursors.length - 1) * size
  if (error) return <Fault error={error} />
  if (!data) return <Loading />
  if (!data.jobs.length && !from) return none
  return (
    <>
      {data.jobs.map((job, index) => (
        <Branch key={job.id} job={job} depth={depth} currency={currency} first={depth === 0 && index === 0} />
      ))}
      {(data.next || from > 0) && (
        <div class="pager" role="row" style={{ paddingInlineStart: `${depth * 1.25 + 1.5}rem` }}>
          <span role="gridcell">
            {count(from + 1)} – {count(from + data.jobs.length)}
            <button type="button" disabled={!from} onClick={() => setCursors(cursors.slice(0, -1))}>
              Previous
            </button>
            <button type="button" disabled={!data.next} onClick={() => setCursors([...cursors, data.next])}>
              Next
            </button>
          </span>
        </div>
      )}
    </>
  )
}

function Branch({ job, depth, currency, first }) {
  const none = <div class="row hollow" role="row"><span role="gridcell" class="empty">an empty group</span></div>
  return (
    <>
      <Row job={job} depth={depth} currency={currency} first={first} />
      {job.group && opened.value.has(job.id) && <Level query={{ parent: job.id, sort: 'id' }} depth={depth + 1} currency={currency} none={none} />}
    </>
  )
}

// Arrows walk the rows and open or close groups, as in a file manager.
function onKeyDown(event) {
  const row = event.target.closest('[data-job]')
  if (!row || event.target !== row) return
  const id = Number(row.dataset.job)
  const rows = [...event.currentTarget.querySelectorAll('[data-job]')]
  const at = rows.indexOf(row)
  const isOpen = row.getAttribute('aria-expanded') === 'true'
  const isGroup = row.hasAttribute('aria-expanded')
  const level = (element) => Number(element.getAttribute('aria-level'))
  const parent = rows.slice(0, at).findLast((other) => level(other) < level(row))
  const steps = {
    ArrowDown: () => rows[at + 1]?.focus(),
    ArrowUp: () => rows[at - 1]?.focus(),
    Home: () => rows[0].focus(),
    End: () => rows[rows.length - 1].focus(),
    ArrowRight: () => (isGroup && !isOpen ? toggle(id, true) : rows[at + 1]?.focus()),
    ArrowLeft: () => (isOpen ? toggle(id, false) : parent?.focus()),
    Enter: () => go({ job: id }),
    ' ': () => go({ job: id }),
  }
  if (!steps[event.key]) return
  event.preventDefault()
  steps[event.key]()
}

function Crumbs({ id }) {
  const { data } = useLive(`job:${id}`, () => api.job(id), 10)
  return (
    <>
      {data?.parent > 0 && <Crumbs id={data.parent} />}
      <span class="slash">/</span>
      <Link to={{ parent: id }}>{data?.title || `#${id}`}</Link>
    </>
  )
}

function Where() {
  const { parent, state, title } = place.value
  if (!parent && !state && !title) return null
  return (
    <p class="crumbs">
      <Link to={{ parent: 0, state: '', title: '' }}>All jobs</Link>
      {parent > 0 && <Crumbs id={parent} />}
      {state && (
        <>
          <span class="slash">/</span>
          <State state={state} />
        </>
      )}
      {title && (
        <>
          <span class="slash">/</span>titles with “{title}”
        </>
      )}
    </p>
  )
}

function Search() {
  return (
    <input
      type="search"
      placeholder="Find a title"
      aria-label="Find jobs by title"
      value={place.value.title}
      onInput={(event) => go({ title: event.target.value.trim(), parent: 0 }, true)}
    />
  )
}

const HEADS = [
  ['Job', 'name'],
  ['State', 'state-cell'],
  ['Progress', 'progress'],
  ['Done', 'number done'],
  ['User', 'user'],
  ['Priority', 'number priority'],
  ['Time', 'number time'],
  ['Cost', 'number cost'],
]

export function Jobs({ farm, size = PAGE }) {
  const { parent, state, title } = place.value
  const searching = state || title
  const query = searching ? { state, title, sort: '-id' } : { parent, sort: parent ? 'id' : '-id' }
  const none = searching ? (
    <Empty>No job matches.</Empty>
  ) : (
    <Empty>
      No jobs yet. Submit one: <code>coalition submit --title hello -- echo hello</code>
    </Empty>
  )
  return (
    <Section name="jobs" title="Jobs" aside={<Search />}>
      <Where />
      <div class="grid" role="treegrid" aria-label="Jobs" onKeyDown={onKeyDown}>
        <div class="row head" role="row">
          {HEADS.map(([word, kind]) => (
            <span key={word} role="columnheader" class={kind}>
              {word}
            </span>
          ))}
        </div>
        <Level key={JSON.stringify(query)} query={query} depth={0} currency={farm?.currency} none={none} size={size} />
      </div>
    </Section>
  )
}
