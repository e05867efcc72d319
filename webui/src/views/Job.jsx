// One job beside the list: what it is, why it waits or failed, what it did and cost, and what it prints.
import { useEffect } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, duration, exact, money, moneyCell, plural } from '../format.js'
import { Address } from '../job/Address.jsx'
import { Children } from '../job/Children.jsx'
import { Preview } from '../job/Preview.jsx'
import { Gantt, Timeline } from '../job/Timeline.jsx'
import { actionsOf } from '../jobs/actions.js'
import { leftOf, Progress, shownState } from '../jobs/columns.jsx'
import { only } from '../jobs/selection.js'
import { Actions, Ago, Empty, Fault, Lasting, Loading, Panel, State } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { now, useLive } from '../poll.js'
import { panel } from './Jobs.jsx'
import { Log } from './Log.jsx'

const WHY = { WAITING: 'Why it waits', PENDING: 'Why it waits', PAUSED: 'Why it waits', ERROR: 'Why it failed', WORKING: 'Now' }

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

const LONG = ['Note', 'Forecast', 'Needs', 'After', 'Directory', 'Environment', 'Address']

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
    ['Memory', job.used_memory_bytes > 0 && `${bytes(job.used_memory_bytes)} at most`],
    ['Cost', job.cost_micro > 0 && money(job.cost_micro, currency)],
    ...forecast(job, currency),
    ['Errors', job.errors > 0 && count(job.errors)],
    ['Retries', job.retries > 0 && `up to ${count(job.retries)}`],
    ['Time limit', job.timeout_s > 0 && duration(job.timeout_s)],
    ['Needs', needsOf(job)],
    ['After', job.depends_on.length > 0 && job.depends_on.map((id) => <Link key={id} to={{ job: id }}>#{id} </Link>)],
    ['Directory', job.dir && <code>{job.dir}</code>],
    ['Environment', environment.length > 0 && environment.map(([name, value]) => <code key={name} class="line">{name}={value}</code>)],
    ['Address', job.url && <Address url={job.url} />],
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

// At the pace so far: when it ends, and what it will have cost.
function forecast(job, currency) {
  const left = leftOf(job, now.value)
  if (left === null) return []
  const cost = job.cost_micro && job.progress ? `, ${money(Math.round(job.cost_micro / job.progress), currency)} in all` : ''
  return [['Forecast', <span title={exact(now.value + left)}>done in {duration(left)}{cost}</span>]]
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
      <Gantt attempts={data} now={now.value} words={(run) => `${run.state.toLowerCase()} on ${run.worker}`} />
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

// The groups above.
function Path({ id }) {
  const { data } = useLive(`job:${id}`, () => api.job(id), 10)
  if (!data) return null
  return (
    <>
      {data.parent > 0 && <Path id={data.parent} />}
      <Link to={{ job: id }}>{data.title || `#${id}`}</Link>
      <span class="slash">/</span>
    </>
  )
}

function editAction(job) {
  if (!job.allowed_actions.includes('edit')) return []
  const edit = () => {
    only(job.id)
    panel.value = 'edit'
  }
  return [{ name: 'edit', label: 'Edit', run: edit }]
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
      <Actions actions={[...actionsOf(job), ...editAction(job)]} label="Actions for this job" />
      <Reasons job={job} />
      <Preview url={job.url} />
      {job.group && <Children job={job} currency={currency} />}
      <Facts job={job} currency={currency} />
      {job.command && (
        <section>
          <h3>Command</h3>
          <pre class="command">{job.command}</pre>
        </section>
      )}
      {!job.group && <Attempts job={job} currency={currency} />}
      <Timeline job={job} />
      {!job.group && <Log key={job.id} job={job} />}
    </>
  )
}

export function Job({ id, farm }) {
  const { data: job, error } = useLive(`detail:${id}`, () => api.job(id))
  const close = () => {
    if (place.peek().job === id) go({ job: 0 })
    document.querySelector('.jobs-grid')?.focus()
  }
  useEffect(() => {
    document.querySelector(`#job-${id}`)?.scrollIntoView({ block: 'nearest' })
  }, [id])
  const path = (
    <>
      {job?.parent > 0 && <Path id={job.parent} />}#{id}
    </>
  )
  return (
    <Panel title={job?.title || `Job ${id}`} label="Job" path={path} onClose={close}>
      {error?.status === 404 ? <Empty>This job is gone: deleted, or it never was.</Empty> : <Fault error={error} />}
      {!job && !error && <Loading />}
      {job && <Body job={job} currency={farm?.currency} />}
    </Panel>
  )
}
