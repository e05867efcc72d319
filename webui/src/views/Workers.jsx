// The machines: what each does, and why not. Only the rows in view are drawn.
import { useMemo, useRef } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, count, money, plural } from '../format.js'
import { Actions, Ago, Bar, Empty, Fault, Loading, Section, State, Steady } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { now, useLive } from '../poll.js'
import { density } from '../theme.js'
import { noText, useLetGo, useRecycled, useWindow } from '../window.js'
import { actionsOf, active, chosen } from '../workers/actions.js'
import { Lines } from '../workers/Lines.jsx'

const FIELDS = [
  'id', 'name', 'state', 'active', 'slots', 'running', 'affinity', 'facts', 'load', 'memory_free_bytes', 'finished', 'errors', 'seen_at',
  'instance', 'jobs', 'hours', 'timezone', 'note', 'reason', 'allowed_actions',
].join()
const SILENT_S = 60 // when it was seen last is told from then on
const ORDER = ['SICK', 'TIMEOUT', 'WORKING', 'WAITING', 'STARTING', 'DRAINING', 'TERMINATED']
const SORTS = {
  name: (worker) => worker.name,
  state: (worker) => ORDER.indexOf(worker.state),
  slots: (worker) => -worker.running,
  load: (worker) => -worker.load,
  memory: (worker) => worker.memory_free_bytes,
  finished: (worker) => -worker.finished,
  errors: (worker) => -worker.errors,
  price: (worker, instances) => -(instances.get(worker.instance)?.price_micro ?? 0),
}

function JobLinks({ jobs: [first, ...more] }) {
  if (!first) return null
  return (
    <>
      <Link to={{ job: first, worker: 0 }} class="job-link">
        #{first}
      </Link>
      {more.length > 0 && <span class="more">+{more.length}</span>}
    </>
  )
}

export function Memory({ worker }) {
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

export function Slots({ worker }) {
  const { slots } = worker
  const busy = Math.min(worker.running, slots) // more than that wait on the worker for a slot
  return (
    <>
      <Bar whole={slots} parts={[{ amount: busy, tone: 'alive' }]} label={`${busy} of ${plural(slots, 'slot')} busy`} />
      <span class="number">
        {busy}
        <span class="of"> / {slots}</span>
      </span>
    </>
  )
}

// The cells of a row; while its worker is the same they need not be drawn again.
class Cells extends Steady {
  render({ worker, instance }) {
    const note = [worker.reason || (!worker.active && 'switched off'), worker.note].filter(Boolean).join(' · ')
    return (
      <>
        <span role="gridcell" class="name">
          <span class="title">{worker.name}</span>
        </span>
        <span role="gridcell" class="state-cell">
          <State state={worker.state} />
        </span>
        <span role="gridcell" class="slots">
          <Slots worker={worker} />
        </span>
        <span role="gridcell" class="number load">{worker.load.toFixed(1)}</span>
        <span role="gridcell" class="number memory">
          <Memory worker={worker} />
        </span>
        <span role="gridcell" class="number finished">{count(worker.finished)}</span>
        <span role="gridcell" class={worker.errors ? 'number errors bad' : 'number errors'}>{count(worker.errors)}</span>
        <span role="gridcell" class="number seen">{now.peek() - worker.seen_at > SILENT_S && <Ago at={worker.seen_at} />}</span>
        <span role="gridcell" class="jobs-of">
          <JobLinks jobs={worker.jobs} />
        </span>
        <Lines worker={worker} />
        <span role="gridcell" class="hours" title={worker.hours && `${worker.hours} ${worker.timezone}`}>
          {worker.hours}
        </span>
        <span role="gridcell" class="number price">
          {instance && (
            <Link to={{ view: 'cloud', worker: 0 }} class="job-link" title={`instance ${instance.id}, ${instance.offering}`}>
              {money(instance.price_micro, instance.currency)}
            </Link>
          )}
        </span>
        <span role="gridcell" class="note" title={note}>
          {note}
        </span>
      </>
    )
  }
}

function Worker({ worker, instance, number, top, onPick }) {
  const row = useRef(null)
  useLetGo(row, worker.id)
  const kinds = ['row', !worker.active && 'off', chosen.value.has(worker.id) && 'selected', place.value.worker === worker.id && 'opened', active.value === worker.id && 'active']
  return (
    <div
      ref={row}
      class={kinds.filter(Boolean).join(' ')}
      style={{ top }}
      role="row"
      id={`worker-${worker.id}`}
      data-worker={worker.id}
      aria-rowindex={number + 2}
      aria-selected={chosen.value.has(worker.id)}
      onClick={(event) => onPick(worker.id, event)}
    >
      <Cells worker={worker} instance={instance} />
    </div>
  )
}

const HEADS = [
  ['Worker', 'name', 'name'],
  ['State', 'state-cell', 'state'],
  ['Slots busy', 'slots', 'slots'],
  ['Load', 'number load', 'load'],
  ['Memory', 'number memory', 'memory'],
  ['Done', 'number finished', 'finished'],
  ['Errors', 'number errors', 'errors'],
  ['Seen', 'number seen', ''],
  ['Jobs', 'jobs-of', ''],
  ['Affinity', 'tags', ''],
  ['Hours', 'hours', ''],
  ['An hour', 'number price', 'price'],
  ['Why idle, notes', 'note', ''],
]

function List({ workers, instances, sort, onSort }) {
  const height = density.value === 'roomy' ? 38 : 30
  const { box, first, last, rests, onScroll, reveal, page } = useWindow(workers.length, height)
  const anchor = useRef(0) // where a range begins
  const numberOf = (id) => workers.findIndex((worker) => worker.id === id)
  const pick = (id, event) => {
    const ids = new Set(event.ctrlKey || event.metaKey ? chosen.value : [])
    if (event.shiftKey) {
      const [from, to] = [numberOf(anchor.current || place.value.worker), numberOf(id)].sort((one, other) => one - other)
      for (const worker of workers.slice(from < 0 ? to : from, to + 1)) ids.add(worker.id)
    } else {
      if (!ids.delete(id)) ids.add(id)
      anchor.current = id
    }
    active.value = id
    chosen.value = ids
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) go({ worker: id, job: 0 }, Boolean(event.key))
  }
  const onKeyDown = (event) => {
    if (event.target !== box.current) return
    const at = numberOf(active.value || place.value.worker)
    const far = { ArrowDown: 1, ArrowUp: -1, PageDown: page(), PageUp: -page(), Home: -workers.length, End: workers.length }[event.key]
    if (event.ctrlKey && event.key === 'a') chosen.value = new Set(workers.map((worker) => worker.id))
    else if (!far) return
    else {
      const to = Math.min(workers.length - 1, Math.max(0, at + far))
      reveal(to)
      pick(workers[to].id, event)
    }
    event.preventDefault()
  }
  const rows = useRecycled(workers.slice(first, last + 1).map((worker, at) => ({ id: worker.id, number: first + at, worker })), rests)
  const visible = rows.some(({ id }) => id === active.value)
  return (
    <div
      ref={box}
      class="workers-grid"
      role="grid"
      tabIndex={0}
      aria-label="Workers"
      aria-multiselectable="true"
      aria-rowcount={workers.length + 1}
      aria-activedescendant={visible ? `worker-${active.value}` : undefined}
      onScroll={onScroll}
      onMouseDown={noText}
      onKeyDown={onKeyDown}
    >
      <div class="row head" role="row" aria-rowindex={1}>
        {HEADS.map(([word, kind, by]) => (
          <span key={word} role="columnheader" class={kind} aria-sort={by && by === sort ? 'ascending' : undefined}>
            {by ? (
              <button type="button" class="plain sorter" onClick={() => onSort(by)}>
                {word}
                {by === sort && <span aria-hidden="true"> ↓</span>}
              </button>
            ) : (
              word
            )}
          </span>
        ))}
      </div>
      <div role="rowgroup" style={{ height: `${workers.length * height}px` }}>
        {rows.map(({ key, number, worker }) => (
          <Worker key={key} worker={worker} instance={instances.get(worker.instance)} number={number} top={`${number * height}px`} onPick={pick} />
        ))}
      </div>
    </div>
  )
}

export const useWorkers = () => useLive('workers', () => api.workers({ fields: FIELDS }))

export function Workers() {
  const { data, error } = useWorkers()
  const { find: text, order } = place.value
  const sort = Object.hasOwn(SORTS, order) ? order : 'name'
  const paid = useLive('instances', () => api.instances({}), 3).data
  const instances = useMemo(() => new Map((paid || []).map((one) => [one.id, one])), [paid])
  const shown = useMemo(() => {
    const wanted = text.toLowerCase()
    const fits = (worker) => !wanted || [worker.name, worker.state, worker.reason, worker.note, ...worker.affinity.flat()].join(' ').toLowerCase().includes(wanted)
    const key = (worker) => SORTS[sort](worker, instances)
    return (data || []).filter(fits).sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0))
  }, [data, text, sort, sort === 'price' && instances])
  const picked = (data || []).filter((worker) => chosen.value.has(worker.id))
  const search = <input type="search" placeholder="Find a worker, state or tag" aria-label="Find workers" value={text} onInput={(event) => go({ find: event.target.value }, true)} />
  return (
    <Section name="workers" title="Workers" lead={search} aside={data?.length > 0 && (shown.length < data.length ? `${count(shown.length)} of ${count(data.length)}` : count(data.length))}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && (
        <Empty>
          No workers yet. Start one on any machine of this network: <code>coalition worker</code>
        </Empty>
      )}
      {picked.length > 1 && (
        <div class="chosen">
          <span class="what">{plural(picked.length, 'worker')} selected</span>
          <Actions actions={actionsOf(picked, instances)} label="Actions for the selected workers" />
        </div>
      )}
      {data?.length > 0 && !shown.length && <Empty>No worker fits.</Empty>}
      {shown.length > 0 && <List workers={shown} instances={instances} sort={sort} onSort={(by) => go({ order: by === 'name' ? '' : by }, true)} />}
    </Section>
  )
}
