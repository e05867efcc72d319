// One worker beside the list: what it is and does, why it is idle, its affinity lines and hours to edit, and what happened to it.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, duration, money, plural } from '../format.js'
import { Gantt, Happenings } from '../job/Timeline.jsx'
import { general, troublesOf } from '../jobs/Editor.jsx'
import { Actions, Ago, Empty, Fault, Loading, Panel, State } from '../parts.jsx'
import { go, Link } from '../place.jsx'
import { now, refresh, useLive } from '../poll.js'
import { say } from '../toast.jsx'
import { actionsOf } from '../workers/actions.js'
import { Memory, Slots, useWorkers } from './Workers.jsx'

const SHOWN = 50

function Idle({ worker }) {
  const { data } = useLive(`explain-worker:${worker.id}`, () => api.explainWorker(worker.id), 2)
  if (!data?.length) return null
  return (
    <section class="why">
      <h3>{worker.running ? 'Now' : 'Why it is idle'}</h3>
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

const TEXTS = {
  affinity: ['Affinity', 'tags, one set a line, best first', (worker) => worker.affinity.map((line) => line.join(' ')).join('\n')],
  slots: ['Slots', '', (worker) => String(worker.slots)],
  hours: ['Hours', 'such as mon-fri 19:00-07:00; empty: always', (worker) => worker.hours],
  timezone: ['Time zone', 'of the hours', (worker) => worker.timezone],
  idle_user_s: ['When nobody used it for, s', '0: whoever is there', (worker) => String(worker.idle_user_s)],
  note: ['Note', '', (worker) => worker.note],
}
const READ = {
  affinity: (text) => text.split('\n').map((line) => line.split(/[\s,]+/).filter(Boolean)),
  slots: Number,
  idle_user_s: Number,
}

function Edit({ worker }) {
  const [texts, setTexts] = useState({})
  const [error, setError] = useState(null)
  const changed = Object.keys(texts)
  const troubles = troublesOf(error)
  const save = async (event) => {
    event.preventDefault()
    try {
      await api.editWorkers([worker.id], Object.fromEntries(changed.map((name) => [name, (READ[name] || String)(texts[name])])))
      setTexts({})
      setError(null)
      say(`Changed ${worker.name}`)
      await refresh()
    } catch (failure) {
      if (failure.status === undefined) throw failure
      setError(failure)
    }
  }
  return (
    <form class="fields" onSubmit={save}>
      {Object.entries(TEXTS).map(([name, [word, hint, of]]) => {
        const Input = name === 'affinity' ? 'textarea' : 'input'
        return (
          <div key={name} class={texts[name] === undefined ? 'field' : 'field changed'}>
            <label for={`worker-${name}`}>{word}</label>
            <Input id={`worker-${name}`} rows={2} spellcheck={false} value={texts[name] ?? of(worker)} onInput={(event) => setTexts({ ...texts, [name]: event.target.value })} />
            {hint && <span class="hint">{hint}</span>}
            {troubles[name] && <span class="trouble">{troubles[name]}</span>}
          </div>
        )
      })}
      <div class="foot">
        {general(error, Object.keys(TEXTS)) && <p class="trouble" role="alert">{error.message}</p>}
        <button type="submit" class="main" disabled={!changed.length}>
          {changed.length ? `Change ${plural(changed.length, 'field')}` : 'Nothing changed'}
        </button>
        <button type="button" onClick={() => setTexts({})} disabled={!changed.length}>
          As it was
        </button>
      </div>
    </form>
  )
}

function Facts({ worker, instance }) {
  const { facts } = worker
  const lines = [
    ['Jobs', worker.jobs.length > 0 && worker.jobs.map((id) => <Link key={id} to={{ job: id, worker: 0 }}>#{id} </Link>)],
    ['Load', worker.load.toFixed(1)],
    ['Memory', facts.memory_bytes > 0 && <Memory worker={worker} />],
    ['Machine', [plural(facts.cpus, 'CPU'), facts.gpus && plural(facts.gpus, 'GPU'), facts.gpu_memory_bytes && `${bytes(facts.gpu_memory_bytes)} each`].filter(Boolean).join(', ')],
    ['Host', (facts.host || facts.os) && <><span>{facts.host}</span>{facts.host && facts.os && ', '}{facts.os}</>],
    ['Version', worker.version],
    ['Finished', count(worker.finished)],
    ['Errors', worker.errors > 0 && count(worker.errors)],
    ['Last seen', <Ago at={worker.seen_at} />],
    ['Idle', worker.idle_since && <Ago at={worker.idle_since} />],
    ['Enrolled', <Ago at={worker.enrolled_at} />],
    ['Hours', worker.hours && `${worker.hours} ${worker.timezone}`],
    ['Sick until', worker.sick_until > 0 && <Ago at={worker.sick_until} />],
    ['Instance', worker.instance && <Link to={{ view: 'cloud', worker: 0 }}>#{worker.instance}{instance && `, ${instance.offering}`}</Link>],
    ['An hour', instance && money(instance.price_micro, instance.currency)],
    ['Spent', instance && money(instance.spent_micro, instance.currency)],
  ]
  return (
    <dl class="facts">
      {lines
        .filter(([, value]) => value)
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  )
}

// What ran there lately, side by side in time.
function Runs({ worker }) {
  const { data } = useLive(`runs:${worker.name}`, () => api.allAttempts({ worker: worker.name, limit: SHOWN }), 3)
  if (!data?.length) return null
  return (
    <section class="attempts">
      <h3>
        The last {plural(data.length, 'run')}
      </h3>
      <Gantt attempts={data} now={now.value} words={(run) => `${run.job_title || `job ${run.job}`}, ${run.state.toLowerCase()}`} to={(run) => ({ view: 'jobs', job: run.job, worker: 0 })} />
      {data.length === 1 && <p class="hint"><span>{data[0].job_title || `job ${data[0].job}`}</span>, {data[0].state.toLowerCase()}, {duration(data[0].run_s)}</p>}
    </section>
  )
}

function Happened({ id }) {
  const { data } = useLive(`worker-events:${id}`, () => api.events({ worker: id, limit: SHOWN }), 3)
  if (!data?.length) return null
  return (
    <section class="timeline">
      <h3>
        What it did
        <Link to={{ view: 'activity', worker: id }}>All</Link>
      </h3>
      <Happenings rows={data.map((row) => ({ ...row, worker: '' }))} />
    </section>
  )
}

export function Worker({ id }) {
  const { data: whole, error } = useLive(`worker:${id}`, () => api.worker(id))
  const listed = useWorkers().data?.find((one) => one.id === id)
  const worker = error ? null : whole || listed
  const close = () => {
    go({ worker: 0 })
    document.querySelector('.workers-grid')?.focus()
  }
  const instances = useLive('instances', () => api.instances({}), 3).data
  const machines = new Map((instances || []).map((one) => [one.id, one]))
  return (
    <Panel title={worker?.name || `Worker ${id}`} label="Worker" path={`#${id}`} onClose={close}>
      {error?.status === 404 ? <Empty>This worker is gone.</Empty> : <Fault error={error} />}
      {!worker && !error && <Loading />}
      {worker && (
        <>
          <div class="status">
            <State state={worker.state} />
            <span class="slots">
              <Slots worker={worker} />
            </span>
          </div>
          <Actions actions={actionsOf([worker], machines)} label={`Actions for worker ${worker.name}`} />
          {worker.reason && <p class={worker.state === 'SICK' ? 'bad' : ''}>{worker.reason}</p>}
          <Idle worker={worker} />
          {whole && <Facts worker={whole} instance={machines.get(whole.instance)} />}
          {whole?.allowed_actions.includes('edit') && <Edit key={id} worker={whole} />}
          <Runs worker={worker} />
          <Happened id={id} />
        </>
      )}
    </Panel>
  )
}
