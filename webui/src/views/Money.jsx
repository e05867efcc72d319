// Money: budgets with their effect, what machines cost by whatever one asks for, as bars and as a table, and what is to come.
import * as api from '../api.js'
import { count, digitsFor, duration, exact, money, plural } from '../format.js'
import { save } from '../jobs/csv.js'
import { NewBudget } from '../money/BudgetForms.jsx'
import { Actions, Ago, Bar, Empty, Fault, Loading, Modes, Section } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { now, useLive } from '../poll.js'
import { Budgets } from './Budgets.jsx'

const SPANS = { 7: 'a week', 30: '30 days', 90: '90 days', ever: 'ever' }
const BY = { day: 'day', pool: 'pool', type: 'type', user: 'user', group: 'group', tag: 'tag', job: 'job' }
const HEADS = { day: 'Day (UTC)', pool: 'Pool', type: 'Type of machine', user: 'User', group: 'Group', tag: 'Tag', job: 'Job or frame' }
const PARTS = [
  ['run_micro', 'work', 'spent'],
  ['waste_micro', 'waste', 'bad'],
  ['boot_micro', 'boot', 'warn'],
  ['idle_micro', 'idle', 'idle'],
]
const SHOWN = 200
const NOBODY = { user: 'nobody: boot and idle time', group: 'no job: boot and idle time', job: 'no job: boot and idle time', tag: 'no tag' }

// What the address asks for, as the server takes it.
function queryOf({ by, days, parent }) {
  const since = days === 'ever' ? null : Math.floor(now.peek() / 86400 - Number(days || 30) + 1) * 86400
  return { group_by: by in BY ? by : 'day', since, group: parent || null }
}

function Key({ entry, by }) {
  if (!entry.key) return <span class="of">{NOBODY[by] || 'not known'}</span>
  if (by === 'job') return <Link to={{ view: 'jobs', job: Number(entry.key), parent: 0, filter: '' }} class="job-link">{entry.name || `#${entry.key}`}</Link>
  if (by !== 'group') return entry.key
  return (
    <>
      <Link to={{ view: 'jobs', job: Number(entry.key), parent: 0, filter: '' }} class="job-link">{entry.name || `#${entry.key}`}</Link>{' '}
      <button type="button" class="plain" onClick={() => go({ by: 'job', parent: Number(entry.key) })}>
        frames
      </button>
    </>
  )
}

function Entry({ entry, most, by, digits }) {
  const { currency } = entry
  const cell = (micro) => (micro ? money(micro, currency, digits) : '')
  const words = PARTS.map(([name, word]) => `${money(entry[name], currency)} ${word}`).join(', ')
  return (
    <tr>
      <th scope="row"><Key entry={entry} by={by} /></th>
      <td class="bars">
        <Bar whole={most} parts={PARTS.map(([name, , tone]) => ({ amount: entry[name], tone }))} label={`${entry.name || entry.key || NOBODY[by]}: ${words}`} tall />
      </td>
      {PARTS.map(([name]) => (
        <td key={name} class="number part">
          {cell(entry[name])}
        </td>
      ))}
      <td class="number hours">{duration(entry.seconds)}</td>
      <td class="number">{cell(entry.amount_micro)}</td>
    </tr>
  )
}

// All of it together: how much was for work, and how much stood idle or was for nothing.
function Sum({ entries, many }) {
  const sum = (name) => entries.reduce((total, entry) => total + entry[name], 0)
  const [{ currency }] = entries
  const whole = sum('amount_micro')
  const share = (name) => `${Math.round((100 * sum(name)) / (whole || 1))} %`
  return (
    <p class="sum">
      <strong>{money(whole, currency)}</strong> spent, of it {share('run_micro')} on work, {share('waste_micro')} wasted on errors and lost machines, {share('boot_micro')} on boots,{' '}
      {share('idle_micro')} on idle machines{many && `; ${plural(entries.length, 'line')}`}
    </p>
  )
}

function Spend() {
  const { parent } = place.value
  const query = queryOf(place.value)
  const by = query.group_by
  const { data, error } = useLive(`cost:${JSON.stringify(query)}`, () => api.cost(query), 5)
  const dearest = (a, b) => b.amount_micro - a.amount_micro
  const entries = data && (by === 'day' ? data.toReversed() : data.toSorted(dearest))
  const shown = entries?.slice(0, SHOWN) ?? []
  const digits = Math.max(2, ...shown.flatMap((entry) => PARTS.map(([name]) => digitsFor(entry[name])))) // as many in every row
  const most = Math.max(...(data || []).map((entry) => entry.amount_micro), 0)
  const csv = { name: 'csv', label: 'CSV', run: async () => save(`spend-by-${by}.csv`, [await api.costCsv(query)], 'text/csv') }
  const aside = (
    <>
      <Modes label="Time" value={place.value.days || '30'} words={SPANS} onChoose={(days) => go({ days: days === '30' ? '' : days }, true)} />
      <Actions label="Spend" actions={[csv]} />
    </>
  )
  return (
    <Section name="spend" title="Spend" lead={<Modes label="By" value={by} words={BY} onChoose={(one) => go({ by: one === 'day' ? '' : one })} />} aside={aside}>
      <Fault error={error} />
      {parent > 0 && (
        <p>
          In group <Link to={{ view: 'jobs', job: parent, parent: 0 }} class="job-link">#{parent}</Link> only.{' '}
          <button type="button" class="plain" onClick={() => go({ parent: 0 })}>
            Of all
          </button>
        </p>
      )}
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>Nothing was spent on cloud machines in this time. What machines of your own do costs nothing here.</Empty>}
      {data?.length > 0 && (
        <>
          <Sum entries={data} many={data.length > SHOWN} />
          <table class="spend">
            <thead>
              <tr>
                <th scope="col">{HEADS[by]}</th>
                <td class="bars" />
                {PARTS.map(([name, word, tone]) => (
                  <th key={name} scope="col" class="number part">
                    <i class={`key ${tone}`} /> {word}
                  </th>
                ))}
                <th scope="col" class="number hours">machine time</th>
                <th scope="col" class="number">total</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((entry) => (
                <Entry key={`${entry.key}${entry.currency}`} entry={entry} most={most} by={by} digits={digits} />
              ))}
            </tbody>
          </table>
          {data.length > SHOWN && <p class="hint">The dearest {SHOWN} are shown; the CSV has all {count(data.length)}.</p>}
        </>
      )}
    </Section>
  )
}

// When what is open will be done and what it will cost, by what finished.
function ToCome() {
  const { data, error } = useLive('forecast', () => api.forecast(), 10)
  if (!data) return <Fault error={error} />
  const { currency } = data
  const known = data.jobs - data.unknown
  return (
    <Section name="to-come" title="What is to come">
      {data.jobs === 0 && <Empty>Nothing is open: nothing more will be spent but what is paid already.</Empty>}
      {data.jobs > 0 && (
        <p class="sum">
          {known > 0 ? <strong>{money(data.cost_micro, currency)}</strong> : <strong>not known</strong>} for {plural(data.jobs, 'open job')}
          {known > 0 && `, 9 of 10 times ${money(data.cost_low_micro, currency)} to ${money(data.cost_high_micro, currency)}`}
          {data.ends_at && (
            <>
              ; done <span title={`${exact(data.ends_early)} – ${exact(data.ends_late)}`}><Ago at={data.ends_at} /></span> with {count(data.at_once)} at a time
            </>
          )}
          {data.unknown > 0 && `; of ${plural(data.unknown, 'job')} none of the group has finished yet: their length is not known`}
        </p>
      )}
    </Section>
  )
}

export function Money({ farm, server }) {
  const { data: budgets, error } = useLive('budgets', api.budgets)
  return (
    <>
      <Fault error={error} />
      <Budgets budgets={budgets}>{server.rights?.includes('budgets') && <NewBudget currency={farm?.currency} />}</Budgets>
      <ToCome />
      <Spend />
    </>
  )
}
