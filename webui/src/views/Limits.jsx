// Limits (licences and other counted tokens), and the tags that jobs ask for and workers have.
import * as api from '../api.js'
import { useForm } from '../form.jsx'
import { count, plural } from '../format.js'
import { Actions, Bar, Empty, Fault, Loading, Section } from '../parts.jsx'
import { Link } from '../place.jsx'
import { useLive } from '../poll.js'

function Maximum({ limit, what }) {
  const { send, busy, told } = useForm(async ({ name, maximum, per_host: perHost }, form) => {
    const words = `${what} ${name.value.trim()}: at most ${count(Number(maximum.value))}`
    await api.setLimit(name.value.trim(), Number(maximum.value), perHost.checked)
    if (!limit) form.reset()
    return words
  })
  const of = limit ? `of ${limit.name}` : 'of the new limit'
  return (
    <form class="limit-form" onSubmit={send}>
      {limit ? <input type="hidden" name="name" value={limit.name} /> : <input name="name" required placeholder="Name, such as nuke" aria-label="Name of the new limit" />}
      <label>
        at most <input name="maximum" required inputMode="numeric" pattern="[0-9]+" size={5} defaultValue={limit?.maximum ?? ''} aria-label={`Maximum ${of}`} />
      </label>
      <label>
        <input type="checkbox" name="per_host" defaultChecked={limit?.per_host} /> on each machine
      </label>
      <button type="submit" disabled={busy}>
        {limit ? 'Set' : 'Add'}
      </button>
      {told}
    </form>
  )
}

function Limit({ limit }) {
  const undefinedYet = limit.maximum === null
  const remove = { name: 'delete', label: 'Delete', confirm: `Delete limit ${limit.name}? Jobs that name it wait until it is defined again.`, run: () => api.deleteLimit(limit.name) }
  return (
    <li class="limit">
      <div class="line">
        <span class="name">{limit.name}</span>
        <span class="use">
          {count(limit.used)} used{!undefinedYet && ` of ${count(limit.maximum)}`}
          {limit.per_host && ' on each machine'}
          {limit.waiting > 0 && `, ${plural(limit.waiting, 'job')} waiting`}
        </span>
        {undefinedYet && <span class="warn">nobody defined it: jobs that name it wait</span>}
        {!undefinedYet && !limit.per_host && <Bar whole={limit.maximum} parts={[{ amount: limit.used, tone: 'alive' }]} label={`${limit.used} of ${limit.maximum} used`} />}
      </div>
      <div class="line">
        {limit.allowed_actions.includes('set') && <Maximum key={`${limit.maximum} ${limit.per_host}`} limit={limit} what="Limit" />}
        {limit.allowed_actions.includes('delete') && <Actions actions={[remove]} label={`Actions for limit ${limit.name}`} />}
      </div>
    </li>
  )
}

function Affinities() {
  const { data, error } = useLive('affinities', api.affinities, 3)
  return (
    <Section name="affinities" title="Affinities">
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>No tags in use. A job with tags runs only on workers that have all of them.</Empty>}
      {data?.length > 0 && (
        <table class="tags-table">
          <thead>
            <tr>
              <th scope="col">Tag</th>
              <th scope="col" class="number">Workers</th>
              <th scope="col" class="number">Jobs to do</th>
              <th scope="col"><span class="unseen">Remark</span></th>
            </tr>
          </thead>
          <tbody>
            {data.map(({ tag, workers, jobs }) => (
              <tr key={tag}>
                <th scope="row">{tag}</th>
                <td class="number">{count(workers)}</td>
                <td class="number">{count(jobs)}</td>
                <td>{jobs > 0 && !workers && <span class="warn">no worker has it</span>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <p class="hint">
        Tags are given to jobs in their properties, and to workers in <Link to={{ view: 'workers' }}>their lines</Link>.
      </p>
    </Section>
  )
}

export function Limits({ server }) {
  const { data, error } = useLive('limits', api.limits, 2)
  return (
    <>
      <Section name="limits" title="Limits">
        <Fault error={error} />
        {!data && !error && <Loading />}
        {data?.length === 0 && <Empty>No limits. One caps how many jobs that name it run at a time: licences, or what a file server bears.</Empty>}
        <ul class="plain-list">
          {data?.map((limit) => (
            <Limit key={limit.name} limit={limit} />
          ))}
        </ul>
        {server.role === 'admin' && <Maximum what="New limit" />}
      </Section>
      <Affinities />
    </>
  )
}
