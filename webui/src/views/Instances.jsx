// Cloud machines: since when, at what price, and why.
import * as api from '../api.js'
import { count, money, moneyCell, rough } from '../format.js'
import { Actions, Ago, Empty, Fault, Lasting, Loading, Section, State } from '../parts.jsx'
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

function Instance({ instance }) {
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
        {instance.funded_until && (
          <span class="paid">
            <Ago at={instance.funded_until} words={paidWords} />
          </span>
        )}
      </span>
      <span role="cell" class="tools">
        <Actions actions={actionsOf(instance)} label={`Actions for instance ${instance.id}`} />
      </span>
    </div>
  )
}

export function Instances() {
  const { data, error } = useLive('instances', api.instances)
  return (
    <Section name="instances" title="Instances" aside={data?.length > 0 && `${count(data.length)} paid for`}>
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
          {data.map((instance) => (
            <Instance key={instance.id} instance={instance} />
          ))}
        </div>
      )}
    </Section>
  )
}
