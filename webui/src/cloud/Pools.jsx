// The pools: what each may start, what keeps it from that, and machines asked for by hand.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { useForm } from '../form.jsx'
import { count, plural } from '../format.js'
import { Actions, Ago, Empty, Fault, Loading, Section, State } from '../parts.jsx'
import { useLive } from '../poll.js'

function Launch({ pool, onDone }) {
  const { send, busy, told } = useForm(async ({ machines, offering }) => {
    const n = Number(machines.value)
    const { note } = await api.launch(pool.name, n, offering.value.trim())
    onDone()
    return `${plural(n, 'machine')} asked for in pool ${pool.name}: ${note || 'the next tick starts them, if its limits and the budgets allow it'}`
  })
  return (
    <form class="limit-form" onSubmit={send} aria-label={`Launch machines of pool ${pool.name}`}>
      <label>
        machines <input name="machines" required type="number" min={1} max={pool.max} defaultValue={1} aria-label={`Machines of pool ${pool.name}`} />
      </label>
      <label>
        of <input name="offering" size={20} placeholder="the cheapest for a job" aria-label={`Type or offer in pool ${pool.name}`} />
      </label>
      <button type="submit" disabled={busy}>
        Ask for them
      </button>
      <button type="button" onClick={onDone}>
        Cancel
      </button>
      {told}
    </form>
  )
}

function actionsOf(pool, mayLaunch, onLaunch) {
  const known = {
    resume: { label: 'Resume', run: () => api.resumePools([pool.name]) },
    drain: {
      label: 'Drain',
      confirm: `Drain pool ${pool.name}? It starts nothing more, and its machines end as their jobs end.`,
      run: () => api.drainPools([pool.name]),
    },
  }
  const launch = { name: 'launch', label: 'Launch by hand', run: async () => onLaunch() }
  const actions = pool.allowed_actions.filter((name) => known[name]).map((name) => ({ name, ...known[name] }))
  return mayLaunch && pool.enabled && pool.max > 0 ? [...actions, launch] : actions
}

function Pool({ pool, mayLaunch }) {
  const [launching, setLaunching] = useState(false)
  const states = Object.entries(pool.instances)
  const paid = states.reduce((sum, [, n]) => sum + n, 0)
  const actions = actionsOf(pool, mayLaunch, () => setLaunching(true))
  return (
    <li class="pool">
      <div class="line">
        <span class="name">{pool.name}</span>
        <span class="terms">{[pool.provider, pool.region, ...pool.affinity.flat()].filter(Boolean).join(' · ')}</span>
        <span class="tally">
          {states.map(([state, n]) => (
            <span key={state}>
              <State state={state} /> {count(n)}
            </span>
          ))}
          {!pool.enabled && pool.drained_by === null && <span class="of">switched off</span>}
        </span>
        <span class="left">
          <strong>{count(paid)}</strong> of at most {count(pool.max)}
          {pool.min > 0 && `, at least ${count(pool.min)}`}
        </span>
      </div>
      {pool.drained_by !== null && <p class="warn">Drained{pool.drained_by && ` by ${pool.drained_by}`}: it starts nothing until it is resumed.</p>}
      {pool.blocked && (
        <p class="bad">
          <span>{pool.blocked}</span>
          {pool.blocked_until && (
            <>
              ; tried again <Ago at={pool.blocked_until} />
            </>
          )}
        </p>
      )}
      {(pool.blocks || []).map((block) => (
        <p class="warn" key={block.offering}>
          {block.offering} is blocked ({block.kind}): <span>{block.reason}</span>
          {block.until && (
            <>
              ; tried again <Ago at={block.until} />
            </>
          )}
        </p>
      ))}
      {launching ? <Launch pool={pool} onDone={() => setLaunching(false)} /> : actions.length > 0 && <Actions actions={actions} label={`Actions for pool ${pool.name}`} />}
    </li>
  )
}

function Scaling({ scaling }) {
  const known = {
    pause: { label: 'Pause scaling', confirm: 'Start no machines until somebody resumes? What runs is paid on and ends as usual.', run: api.pauseScaling },
    resume: { label: 'Resume scaling', run: api.resumeScaling },
  }
  const actions = (scaling.allowed_actions || []).filter((name) => known[name]).map((name) => ({ name, ...known[name] }))
  return actions.length > 0 && <Actions actions={actions} label="Scaling" />
}

export function Pools({ farm, server }) {
  const { data, error } = useLive('pools', api.pools, 3)
  const may = server.rights?.includes('cloud')
  const scaling = farm?.scaling
  return (
    <Section name="pools" title="Pools" aside={may && scaling?.enabled && <Scaling scaling={scaling} />}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {scaling?.paused && (
        <p class="warn">
          Scaling is paused{scaling.paused_by && ` by ${scaling.paused_by}`} <Ago at={scaling.paused_at} />: no machines are started.
        </p>
      )}
      {data?.length === 0 && (
        <Empty>
          No pools. A <code>[pool NAME]</code> in cloud.ini says what may be started when jobs wait.
        </Empty>
      )}
      <ul class="plain-list">
        {data?.map((pool) => (
          <Pool key={pool.name} pool={pool} mayLaunch={may} />
        ))}
      </ul>
    </Section>
  )
}
