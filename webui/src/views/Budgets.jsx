// Spend against each budget: what is gone, what is promised to machines that run, and where it ends.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { digitsFor, money } from '../format.js'
import { ChangeBudget } from '../money/BudgetForms.jsx'
import { Actions, Ago, Bar, Empty, Section } from '../parts.jsx'
import { go, place } from '../place.jsx'

function actionsOf(budget, onEdit) {
  const back = budget.source === 'cloud.ini'
  const known = {
    edit: { label: 'Change', run: async () => onEdit() },
    delete: {
      label: back ? 'Back to cloud.ini' : 'Delete',
      confirm: back ? `Let what cloud.ini says of budget ${budget.name} hold again?` : `Delete budget ${budget.name}? What it capped is capped by others only.`,
      run: () => api.deleteBudget(budget.name),
    },
  }
  return (budget.allowed_actions || []).filter((key) => known[key]).map((key) => ({ name: key, ...known[key] }))
}

function Budget({ budget }) {
  const [opened, setEditing] = useState(false)
  const editing = opened || place.value.budget === budget.name
  const done = () => {
    setEditing(false)
    if (place.value.budget) go({ budget: '' }, true)
  }
  const actions = actionsOf(budget, () => setEditing(true))
  const { currency, spent_micro: spent, reserved_micro: reserved, cap_micro: cap, left_micro: left } = budget
  const show = (micro) => money(micro, currency, digitsFor(cap, Math.min(spent || cap, reserved || cap)))
  const label = `${show(spent)} spent and ${show(reserved)} reserved of ${show(cap)}`
  const whole = Math.max(cap, spent + reserved)
  const parts = [
    { amount: spent, tone: 'spent' },
    { amount: reserved, tone: 'reserved' },
  ]
  return (
    <li class="budget">
      <div class="line">
        <span class="name">{budget.name}</span>
        <span class="terms">
          {budget.applies_to} · {budget.window} · {budget.hard ? 'hard cap' : 'warns only'}
        </span>
        <span class="left">
          <strong>{show(left)}</strong> left of {show(cap)}
        </span>
      </div>
      <span class="with-mark">
        <Bar whole={whole} parts={parts} label={label} tall />
        {budget.forecast_micro > spent && <i class="mark" style={{ insetInlineStart: `${Math.min(100, (100 * budget.forecast_micro) / whole)}%` }} />}
      </span>
      <div class="line legend">
        <span>
          <i class="key spent" /> {show(spent)} spent
        </span>
        <span>
          <i class="key reserved" /> {show(reserved)} reserved
        </span>
        {budget.forecast_micro != null && (
          <span class={budget.forecast_micro >= cap && cap ? 'warn' : undefined} title="Spent when the window ends, if the machines that run now go on until then; a hard cap ends them before">
            forecast {show(budget.forecast_micro)}
          </span>
        )}
        {budget.window !== 'total' && (
          <span class="ends">
            window ends <Ago at={budget.ends_at} />
          </span>
        )}
        {budget.changed_at && (
          <span class="of">
            changed <Ago at={budget.changed_at} /> {budget.changed_by && `by ${budget.changed_by}`}
          </span>
        )}
        {!editing && actions.length > 0 && <Actions actions={actions} label={`Actions for budget ${budget.name}`} />}
      </div>
      {editing && <ChangeBudget budget={budget} onDone={done} />}
    </li>
  )
}

export function Budgets({ budgets, children }) {
  if (!budgets) return null
  return (
    <Section name="budgets" title="Budgets">
      {budgets.length ? (
        <ul class="plain-list">
          {budgets.map((budget) => (
            <Budget key={budget.name} budget={budget} />
          ))}
        </ul>
      ) : (
        <Empty>
          No budgets. A <code>[budget NAME]</code> in cloud.ini caps what pools may spend.
        </Empty>
      )}
      {children}
    </Section>
  )
}
