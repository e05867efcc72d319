// The machines: what each does, and why not.
import * as api from '../api.js'
import { bytes, count, plural } from '../format.js'
import { Actions, Ago, Bar, Empty, Fault, Loading, Section, State } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'

const SHOWN_JOBS = 3

function actionsOf(worker) {
  const known = {
    drain: { label: 'Drain', run: () => api.drainWorkers([worker.id]) },
    resume: { label: 'Resume', run: () => api.resumeWorkers([worker.id]) },
    delete: {
      label: 'Delete',
      run: () => api.deleteWorkers([worker.id]),
      confirm: worker.running ? `Delete ${worker.name}? ${plural(worker.running, 'job')} on it will be run again elsewhere.` : `Delete ${worker.name}?`,
    },
  }
  return worker.allowed_actions.filter((key) => known[key]).map((key) => ({ name: key, ...known[key] }))
}

function JobLinks({ jobs }) {
  const more = jobs.length - SHOWN_JOBS
  return (
    <>
      {jobs.slice(0, SHOWN_JOBS).map((id) => (
        <Link key={id} to={{ job: id }} class="job-link">
          #{id}
        </Link>
      ))}
      {more > 0 && <span class="more">+{more}</span>}
    </>
  )
}

function Memory({ worker }) {
  const all = worker.facts.memory_bytes
  if (!all) return null
  const used = Math.max(0, all - worker.memory_free_bytes)
  return (
    <span title={`${bytes(used)} of ${bytes(all)} used`}>
      {bytes(used)}
      <span class="of"> / {bytes(all)}</span>
    </span>
  )
}

function Worker({ worker }) {
  const { slots } = worker
  const busy = Math.min(worker.running, slots) // more than that wait on the worker for a slot
  const lines = worker.affinity.map((line) => line.join(' '))
  return (
    <div class={worker.active ? 'row' : 'row off'} role="row">
      <span role="cell" class="name">
        <span class="title">{worker.name}</span>
        {!worker.active && <span class="sub">switched off</span>}
      </span>
      <span role="cell" class="state-cell">
        <State state={worker.state} />
        {worker.state === 'TIMEOUT' && (
          <span class="sub">
            {' '}
            <Ago at={worker.seen_at} />
          </span>
        )}
      </span>
      <span role="cell" class="slots">
        <Bar whole={slots} parts={[{ amount: busy, tone: 'alive' }]} label={`${busy} of ${plural(slots, 'slot')} busy`} />
        <span class="number">
          {busy}
          <span class="of"> / {slots}</span>
        </span>
      </span>
      <span role="cell" class="number load">{worker.load.toFixed(1)}</span>
      <span role="cell" class="number memory">
        <Memory worker={worker} />
      </span>
      <span role="cell" class="jobs-of">
        <JobLinks jobs={worker.jobs} />
      </span>
      <span role="cell" class="tags" title={lines.map((line) => line || 'any job without tags').join('\n')}>
        {lines.join(', ')}
      </span>
      {(worker.reason || worker.note) && (
        <span role="cell" class="note">
          {[worker.reason, worker.note].filter(Boolean).join(' · ')}
        </span>
      )}
      <span role="cell" class="tools">
        <Actions actions={actionsOf(worker)} label={`Actions for worker ${worker.name}`} />
      </span>
    </div>
  )
}

export function Workers() {
  const { data, error } = useLive('workers', api.workers)
  return (
    <Section name="workers" title="Workers" aside={data?.length > 0 && count(data.length)}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && (
        <Empty>
          No workers yet. Start one on any machine of this network: <code>coalition worker</code>
        </Empty>
      )}
      {data?.length > 0 && (
        <div class="grid" role="table" aria-label="Workers">
          <div class="row head" role="row">
            <span role="columnheader">Worker</span>
            <span role="columnheader">State</span>
            <span role="columnheader">Slots busy</span>
            <span role="columnheader" class="number load">Load</span>
            <span role="columnheader" class="number memory">Memory</span>
            <span role="columnheader" class="jobs-of">Jobs</span>
            <span role="columnheader" class="tags">Affinity</span>
            <span role="columnheader" class="unseen">Actions</span>
          </div>
          {data.map((worker) => (
            <Worker key={worker.id} worker={worker} />
          ))}
        </div>
      )}
    </Section>
  )
}
