// One job beside the list: what it is, why it waits or failed, what it did, and what it prints.
import { useEffect, useRef } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, duration, money, moneyCell, plural } from '../format.js'
import { Actions, Ago, Empty, Fault, Glyph, Lasting, Loading, State } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { useLive } from '../poll.js'
import { Progress, shownState, toggle } from './Jobs.jsx'
import { Log } from './Log.jsx'

const CHILDREN = 200
const LINKED = place.peek().job // the job that the address named when the page was opened
const OVER_THE_PAGE = '(max-width: 67.99rem)' // as in detail.css
const WHY = { WAITING: 'Why it waits', PENDING: 'Why it waits', PAUSED: 'Why it waits', ERROR: 'Why it failed', WORKING: 'Now' }

function actionsOf(job) {
  const ids = [job.id]
  const total = job.counts?.total ?? 1
  const what = job.group ? `${job.title || 'this group'} and the ${plural(total, 'job')} in it` : job.title || `job ${job.id}`
  const known = {
    pause: { label: 'Pause', run: () => api.pause(ids) },
    start: { label: 'Start', run: () => api.start(ids) },
    reset: { label: 'Run again', run: () => api.reset(ids), confirm: `Run ${what} again? What was finished is done anew, and paid anew.` },
    skip: { label: 'Skip', run: () => api.skip(ids), confirm: `Let ${what} count as finished without being run?` },
    delete: {
      label: 'Delete',
      confirm: `Delete ${what}? This cannot be undone.`,
      run: async () => {
        await api.delete(ids)
        go({ job: 0 })
      },
    },
  }
  const actions = job.allowed_actions.filter((name) => known[name]).map((name) => ({ name, ...known[name] }))
  const failed = job.counts?.error
  if (failed && job.allowed_actions.includes('reset')) {
    actions.unshift({ name: 'reset-errors', label: `Run ${plural(failed, 'error')} again`, run: () => api.reset(ids, true) })
  }
  return actions
}

function Reasons({ job }) {
  const { data } = useLive(`explain:${job.id}`, () => api.explain(job.id), 2)
  const title = WHY[shownState(job)]
  if (!data?.length || !title) return null
  return (
    <section class="why">
      <h3>{title}</h3>
      <ul>
        {data.map((reason, index) => (
          <li key={`${reason.code}${index}`} class={index ? '' : 'first'}>
            {reason.text}
          </li>
        ))}
      </ul>
    </section>
  )
}

function needsOf(job) {
  const needs = [
    job.cpus && plural(job.cpus, 'CPU'),
    job.memory_bytes && `${bytes(job.memory_bytes)} memory`,
    job.gpus && plural(job.gpus, 'GPU'),
    ...job.affinity,
  ].filter(Boolean)
  return needs.join(', ')
}

const LONG = ['Note', 'Needs', 'After', 'Directory', 'Environment', 'Address']
const isWeb = (text) => /^https?:\/\//i.test(text)

function Facts({ job, currency }) {
  const environment = Object.entries(job.environment)
  const facts = [
    ['Note', job.note],
    ['User', job.user],
    ['Priority', job.priority],
    ['Worker', job.worker],
    ['Submitted', <Ago at={job.created_at} />],
    ['Started', job.started_at && <Ago at={job.started_at} />],
    ['Ended', job.ended_at && <Ago at={job.ended_at} />],
    ['Run time', job.run_s > 0 && duration(job.run_s)],
    ['Cost', job.cost_micro > 0 && money(job.cost_micro, currency)],
    ['Errors', job.errors > 0 && count(job.errors)],
    ['Retries', job.retries > 0 && `up to ${count(job.retries)}`],
    ['Time limit', job.timeout_s > 0 && duration(job.timeout_s)],
    ['Needs', needsOf(job)],
    ['After', job.depends_on.length > 0 && job.depends_on.map((id) => <Link key={id} to={{ job: id }}>#{id} </Link>)],
    ['Directory', job.dir && <code>{job.dir}</code>],
    ['Environment', environment.length > 0 && environment.map(([name, value]) => <code key={name} class="line">{name}={value}</code>)],
    ['Address', job.url && (isWeb(job.url) ? <a href={job.url} target="_blank" rel="noreferrer noopener">{job.url}</a> : job.url)],
  ]
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value || value === 0)
        .map(([name, value]) => (
          <div key={name} class={LONG.includes(name) ? 'long' : undefined}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  )
}

// The jobs of a group at a glance, each a glyph that leads to it.
function Children({ job }) {
  const { data } = useLive(`children:${job.id}`, () => api.page({ parent: job.id, sort: 'id', limit: CHILDREN }), 2)
  if (!data) return null
  return (
    <section class="children">
      <h3>
        In this group
        <Link to={{ parent: job.id, job: 0, state: '', title: '' }}>List them</Link>
      </h3>
      <div class="glyphs">
        {data.jobs.map((child) => (
          <Link key={child.id} to={{ job: child.id }} title={child.title || `job ${child.id}`}>
            <Glyph state={shownState(child)} />
          </Link>
        ))}
        {data.next && <span class="more">and more</span>}
      </div>
    </section>
  )
}

function outcome({ exit_code: code, signal, reason }) {
  if (reason) return reason
  if (signal) return `signal ${signal}`
  return code ? `exit ${code}` : ''
}

function Attempts({ job, currency }) {
  const { data, error } = useLive(`attempts:${job.id}`, () => api.attempts(job.id), 2)
  if (error) return <Fault error={error} />
  if (!data?.length) return null
  return (
    <section class="attempts">
      <h3>Attempts</h3>
      <div class="grid" role="table" aria-label="Attempts">
        {data.map((attempt) => (
          <div class="row" role="row" key={attempt.id}>
            <span role="cell">
              <State state={attempt.state} />
            </span>
            <span role="cell" class="name">{attempt.worker}</span>
            <span role="cell">
              <Ago at={attempt.leased_at} />
            </span>
            <span role="cell" class="number">
              {attempt.ended_at ? duration(attempt.run_s) : <Lasting from={attempt.started_at} />}
            </span>
            <span role="cell" class="number">{moneyCell(attempt.cost_micro, currency)}</span>
            {outcome(attempt) && (
              <span role="cell" class="note">
                {outcome(attempt)}
              </span>
            )}
          </div>
        ))}
      </div>
    </section>
  )
}

// The groups above. Who came by a link finds them open; who clicks finds nothing moved.
function Path({ id, reveal }) {
  const { data } = useLive(`job:${id}`, () => api.job(id), 10)
  useEffect(() => {
    if (reveal) toggle(id, true)
  }, [])
  if (!data) return null
  return (
    <>
      {data.parent > 0 && <Path id={data.parent} reveal={reveal} />}
      <Link to={{ job: id }}>{data.title || `#${id}`}</Link>
      <span class="slash">/</span>
    </>
  )
}

function Body({ job, currency }) {
  return (
    <>
      <div class="status">
        <State state={shownState(job)} />
        <Progress job={job} />
        {job.counts && (
          <span class="number">
            {count(job.counts.finished)} of {count(job.counts.total)} done
          </span>
        )}
      </div>
      <Actions actions={actionsOf(job)} label="Actions for this job" />
      <Reasons job={job} />
      {job.group && <Children job={job} />}
      <Facts job={job} currency={currency} />
      {job.command && (
        <section>
          <h3>Command</h3>
          <pre class="command">{job.command}</pre>
        </section>
      )}
      {!job.group && <Attempts job={job} currency={currency} />}
      {!job.group && <Log key={job.id} job={job} />}
    </>
  )
}

export function Job({ id, farm }) {
  const { data: job, error } = useLive(`detail:${id}`, () => api.job(id))
  const closer = useRef(null)
  const close = () => {
    go({ job: 0 })
    document.querySelector(`[data-job="${id}"]`)?.focus()
  }
  useEffect(() => {
    const onKey = (event) => event.key === 'Escape' && place.value.job === id && close()
    document.addEventListener('keydown', onKey)
    return () => document.removeEventListener('keydown', onKey)
  }, [id])
  useEffect(() => {
    if (matchMedia(OVER_THE_PAGE).matches) closer.current.focus()
  }, [])
  return (
    <aside class="detail" aria-label="Job">
      <header>
        <div>
          <p class="path">
            {job?.parent > 0 && <Path id={job.parent} reveal={id === LINKED} />}#{id}
          </p>
          <h2>{job?.title || `Job ${id}`}</h2>
        </div>
        <button type="button" class="plain close" ref={closer} onClick={close} aria-label="Close" title="Close (Esc)">
          ✕
        </button>
      </header>
      {error?.status === 404 ? <Empty>This job is gone: deleted, or it never was.</Empty> : <Fault error={error} />}
      {!job && !error && <Loading />}
      {job && <Body job={job} currency={farm?.currency} />}
    </aside>
  )
}
