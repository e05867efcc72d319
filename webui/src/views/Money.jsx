// Money: budgets, and what machines cost by day and by pool: work, boot and idle time, as bars and as a table.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { duration, money, moneyCell } from '../format.js'
import { save, toCsv } from '../jobs/csv.js'
import { Actions, Bar, Empty, Fault, Loading, Section } from '../parts.jsx'
import { now, useLive } from '../poll.js'
import { NewBudget } from '../money/BudgetForms.jsx'
import { Budgets } from './Budgets.jsx'

const SPANS = [
  [7, 'a week'],
  [30, '30 days'],
  [90, '90 days'],
  [0, 'ever'],
]
const PARTS = [
  ['run_micro', 'work', 'spent'],
  ['boot_micro', 'boot', 'warn'],
  ['idle_micro', 'idle', 'idle'],
]

function saveEntries(entries, by) {
  const head = [by, 'hours', 'work', 'boot', 'idle', 'total', 'currency']
  const rows = entries.map((entry) => [entry.key, entry.seconds / 3600, ...PARTS.map(([name]) => entry[name] / 1e6), entry.amount_micro / 1e6, entry.currency])
  save(`spend-by-${by}.csv`, [toCsv([head, ...rows])], 'text/csv')
}

function Entry({ entry, most }) {
  const { currency } = entry
  const words = PARTS.map(([name, word]) => `${money(entry[name], currency)} ${word}`).join(', ')
  return (
    <tr>
      <th scope="row">{entry.key}</th>
      <td class="bars">
        <Bar whole={most} parts={PARTS.map(([name, , tone]) => ({ amount: entry[name], tone }))} label={`${entry.key}: ${words}`} tall />
      </td>
      {PARTS.map(([name]) => (
        <td key={name} class="number part">
          {moneyCell(entry[name], currency)}
        </td>
      ))}
      <td class="number hours">{duration(entry.seconds)}</td>
      <td class="number">{moneyCell(entry.amount_micro, currency)}</td>
    </tr>
  )
}

function Spend({ by, title, days }) {
  const since = days ? Math.floor(now.peek() / 86400 - days + 1) * 86400 : 0
  const { data, error } = useLive(`ledger:${by}:${since}`, () => api.ledger(since, by), 5)
  const entries = by === 'day' ? data?.toReversed() : data
  const most = Math.max(...(data || []).map((entry) => entry.amount_micro), 0)
  return (
    <Section name={`spend-${by}`} title={title} aside={data?.length > 0 && <Actions label={title} actions={[{ name: 'csv', label: 'CSV', run: async () => saveEntries(data, by) }]} />}>
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>Nothing was spent on cloud machines in this time.</Empty>}
      {data?.length > 0 && (
        <table class="spend">
          <thead>
            <tr>
              <th scope="col">{by === 'day' ? 'Day (UTC)' : 'Pool'}</th>
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
            {entries.map((entry) => (
              <Entry key={`${entry.key}${entry.currency}`} entry={entry} most={most} />
            ))}
          </tbody>
        </table>
      )}
    </Section>
  )
}

// All of the time together: what was bought, and how much of it stood idle.
function Sum({ days }) {
  const since = days ? Math.floor(now.peek() / 86400 - days + 1) * 86400 : 0
  const { data } = useLive(`ledger:pool:${since}`, () => api.ledger(since, 'pool'), 5)
  if (!data?.length) return null
  const sum = (name) => data.reduce((total, entry) => total + entry[name], 0)
  const [{ currency }] = data
  const whole = sum('amount_micro')
  const share = (name) => `${Math.round((100 * sum(name)) / (whole || 1))} %`
  return (
    <p class="sum">
      <strong>{money(whole, currency)}</strong> spent, of it {share('run_micro')} on work, {share('boot_micro')} on boots, {share('idle_micro')} on idle machines
    </p>
  )
}

export function Money({ farm, server }) {
  const [days, setDays] = useState(30)
  const { data: budgets, error } = useLive('budgets', api.budgets)
  const spans = (
    <span class="modes" role="group" aria-label="Time">
      {SPANS.map(([length, word]) => (
        <button key={length} type="button" class="plain" aria-pressed={days === length} onClick={() => setDays(length)}>
          {word}
        </button>
      ))}
    </span>
  )
  return (
    <>
      <Fault error={error} />
      <Budgets budgets={budgets}>{server.rights?.includes('budgets') && <NewBudget currency={farm?.currency} />}</Budgets>
      <Section name="money" title="Spend" aside={spans}>
        <Sum days={days} />
      </Section>
      <Spend by="day" title="By day" days={days} />
      <Spend by="pool" title="By pool" days={days} />
    </>
  )
}
