// Users of a farm that keeps its own: made, given a role or another password, removed; and one's own password.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { useForm } from '../form.jsx'
import { Actions, Ago, Empty, Fault, Loading, Section } from '../parts.jsx'
import { refresh, useLive } from '../poll.js'
import { say } from '../toast.jsx'

const ROLES = { user: 'artist', guest: 'guest: own jobs only', wrangler: 'wrangler', budget: 'budget owner', admin: 'admin' }

export function Roles({ label, value, onChoose }) {
  return (
    <select name="role" aria-label={label} value={value} onChange={onChoose && ((event) => onChoose(event.target.value))}>
      {Object.entries(ROLES).map(([role, word]) => (
        <option key={role} value={role} selected={role === (value || 'user')}>
          {word}
        </option>
      ))}
    </select>
  )
}

function User({ user, me }) {
  const [trouble, setTrouble] = useState('')
  const give = async (role) => {
    try {
      await api.editUser(user.name, { role })
      say(`${user.name} is ${ROLES[role]} now, and signs in anew`)
      setTrouble('')
    } catch (error) {
      if (error.status === undefined) throw error
      setTrouble(error.message)
    }
    await refresh()
  }
  const remove = { name: 'delete', label: 'Remove', confirm: `Remove ${user.name}, with all log-ins and tokens? The jobs stay.`, run: () => api.deleteUser(user.name) }
  return (
    <tr>
      <th scope="row">{user.name}</th>
      <td>
        <Roles label={`Role of ${user.name}`} value={user.role} onChoose={give} />
        {trouble && (
          <span class="trouble" role="alert">
            {trouble}
          </span>
        )}
      </td>
      <td>
        <Ago at={user.created_at} />
      </td>
      <td>{user.name !== me && <Actions actions={[remove]} label={`Actions for user ${user.name}`} />}</td>
    </tr>
  )
}

function NewUser() {
  const { send, busy, told } = useForm(async ({ name, password, role }, form) => {
    const words = `User ${name.value.trim()} may sign in`
    await api.createUser(name.value.trim(), password.value, role.value)
    form.reset()
    return words
  })
  return (
    <form class="limit-form" onSubmit={send} aria-label="New user">
      <input name="name" required placeholder="Name" autoComplete="off" aria-label="Name of the new user" />
      <input name="password" required type="password" autoComplete="new-password" placeholder="Password" aria-label="Password of the new user" />
      <Roles label="Role of the new user" />
      <button type="submit" disabled={busy}>
        New user
      </button>
      {told}
    </form>
  )
}

export function Users({ me }) {
  const { data, error } = useLive('users', api.users, 5)
  return (
    <Section name="users" title="Users">
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>No users yet: who has the admin's token makes them.</Empty>}
      {data?.length > 0 && (
        <table>
          <thead>
            <tr>
              {['User', 'Role', 'Since', ''].map((word) => (
                <th key={word} scope="col">{word || <span class="unseen">Actions</span>}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data.map((user) => (
              <User key={user.name} user={user} me={me} />
            ))}
          </tbody>
        </table>
      )}
      <NewUser />
    </Section>
  )
}

export function Password() {
  const { send, busy, told } = useForm(async ({ old, fresh }, form) => {
    await api.changePassword(old.value, fresh.value)
    form.reset()
    return 'The password is changed; sign in with the new one'
  })
  return (
    <Section name="password" title="Your password">
      <form class="limit-form" onSubmit={send} aria-label="Your password">
        <input name="old" required type="password" autoComplete="current-password" placeholder="Now" aria-label="Your password now" />
        <input name="fresh" required type="password" autoComplete="new-password" placeholder="From now on" aria-label="Your new password" />
        <button type="submit" disabled={busy}>
          Change
        </button>
        {told}
      </form>
    </Section>
  )
}
