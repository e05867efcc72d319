// Cloud machines: since when, at what price, and why.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { count, money, moneyCell, rough } from '../format.js'
import { Actions, Ago, Empty, Fault, Lasting, Loading, Section, State } from '../parts.jsx'
import { go, place } from '../place.jsx'
import { useLive } from '../poll.js'

const paidWords = (until, now) => (until > now ? `paid ${rough(until - now)} ahead` : 'its paid time is over')

function actionsOf(instance) {
  const name = instance.worker_name || instance.provider_id || `instance ${instance.id}`
  const known = {
    drain: { label: 'Drain', run: () => api.drainInstances([instance.id]) },
    terminate: {
      label: 'Terminate',
      run: () => api.terminateInstances([instance.id]),
      confirm: `End ${name} now? What it runs is stopped and run again elsewhere.`,
    },
  }
  return instance.allowed_actions.filter((key) => known[key]).map((key) => ({ name: key, ...known[key] }))
}

// What a machine printed while it booted, kept when it did not come up.
function Console({ id }) {
  const { data, error } = useLive(`events:console:${id}`, () => api.events({ instance: id, kind: 'instance.console', limit: 1 }), 15)
  return (
    <>
      <Fault error={error} />
      {data?.length === 0 && <span class="of">No console text is kept: that is done where a machine did not come up.</span>}
      {data?.length > 0 && <pre class="console">{data[0].text}</pre>}
    </>
  )
}

function Instance({ instance }) {
  const open = place.value.instance === instance.id
  const { currency } = instance
  return (
    <div class="row" role="row">
      <span role="cell" class="name">
        <span class="title">{instance.worker_name || instance.provider_id || `#${instance.id}`}</span>
      </span>
      <span role="cell">
        <State state={instance.state} />
      </span>
      <span role="cell" class="number">
        <Lasting from={instance.launched_at || instance.created_at} to={instance.ended_at} />
      </span>
      <span role="cell" class="number rate">{money(instance.price_micro, currency)}</span>
      <span role="cell" class="number">{moneyCell(instance.spent_micro, currency)}</span>
      <span role="cell" class="note">
        <span>
          {instance.pool} · {instance.offering}
        </span>
        <span>{instance.reason}</span>
        {instance.funded_until && !instance.ended_at && (
          <span class="paid">
            <Ago at={instance.funded_until} words={paidWords} />
          </span>
        )}
        {instance.ended_at && (
          <button type="button" class="plain" aria-expanded={open} onClick={() => go({ instance: open ? 0 : instance.id }, true)}>
            Console
          </button>
        )}
        {open && <Console id={instance.id} />}
      </span>
      <span role="cell" class="tools">
        <Actions actions={actionsOf(instance)} label={`Actions for instance ${instance.id}`} />
      </span>
    </div>
  )
}

const ENDED = 100 // are shown of those that ended, at most
const STEP = 50 // are drawn, and so many more on demand

export function Instances({ withEnded = false }) {
  const [drawn, setDrawn] = useState(STEP)
  const all = withEnded && place.value.ended === '1'
  const setAll = (on) => go({ ended: on ? '1' : '' }, true)
  const { data, error } = useLive(all ? 'instances:all' : 'instances', () => api.instances(all ? { all: 1, limit: ENDED } : {}))
  const paid = (data || []).filter((instance) => !instance.ended_at).length
  const aside = (
    <>
      {paid > 0 && `${count(paid)} paid for`}
      {withEnded && (
        <label>
          <input type="checkbox" checked={all} onChange={(event) => setAll(event.target.checked)} /> and those that ended
        </label>
      )}
    </>
  )
  return (
    <Section name="instances" title="Instances" aside={aside}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>No cloud machines. They start when jobs wait that the machines at hand cannot take, and a budget allows it.</Empty>}
      {data?.length > 0 && (
        <div class="grid" role="table" aria-label="Instances">
          <div class="row head" role="row">
            <span role="columnheader">Instance</span>
            <span role="columnheader">State</span>
            <span role="columnheader" class="number">Age</span>
            <span role="columnheader" class="number rate">Per hour</span>
            <span role="columnheader" class="number">Spent</span>
            <span role="columnheader" class="unseen">Why</span>
            <span role="columnheader" class="unseen">Actions</span>
          </div>
          {data.slice(0, drawn).map((instance) => (
            <Instance key={instance.id} instance={instance} />
          ))}
        </div>
      )}
      {data?.length > drawn && (
        <p class="pager">
          {count(drawn)} of {count(data.length)}
          <button type="button" onClick={() => setDrawn(drawn + 4 * STEP)}>
            More
          </button>
        </p>
      )}
    </Section>
  )
}
