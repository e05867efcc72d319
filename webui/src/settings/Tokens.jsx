// Tokens: what lets programs and workers in, made here, shown once, revoked here.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { useForm } from '../form.jsx'
import { Actions, Ago, Empty, Fault, Loading, Section } from '../parts.jsx'
import { useLive } from '../poll.js'
import { Roles } from './Users.jsx'

const PARTS = ['Kind', 'Role', 'Made'] // need not be seen where there is little room

function NewToken({ onMade }) {
  const [kind, setKind] = useState('user')
  const { send, busy, told } = useForm(async ({ name, user, role, days }) => {
    const given = { kind, name: name.value.trim(), ...(kind === 'user' ? { user: user.value.trim(), role: role.value } : {}), ...(days.value ? { expires_s: Number(days.value) * 86400 } : {}) }
    onMade(await api.createToken(given))
  })
  return (
    <form class="limit-form" onSubmit={send}>
      <select aria-label="Kind of token" value={kind} onChange={(event) => setKind(event.target.value)}>
        <option value="user">for a user</option>
        <option value="enrol">for one worker</option>
        <option value="site">for all workers</option>
      </select>
      {kind === 'user' && (
        <>
          <input name="user" required placeholder="User" aria-label="User of the token" />
          <Roles label="Role" />
        </>
      )}
      <input name="name" maxLength={64} placeholder="What it is for" aria-label="What the token is for" />
      <label>
        for <input name="days" size={4} inputMode="numeric" pattern="[0-9]*" placeholder="any" aria-label="Days that it is valid" /> days
      </label>
      <button type="submit" disabled={busy}>
        New token
      </button>
      {told}
    </form>
  )
}

function Token({ token }) {
  const revoke = { name: 'revoke', label: 'Revoke', confirm: `Revoke token ${token.id}? It is refused from then on.`, run: () => api.deleteToken(token.id) }
  return (
    <tr>
      <th scope="row">{token.id}</th>
      <td class="of-others">{token.name}</td>
      <td class="part">{token.kind}</td>
      <td class="of-others">{token.user}</td>
      <td class="part">{token.role}</td>
      <td class="part">
        <Ago at={token.created_at} />
      </td>
      <td>{token.expires_at ? <Ago at={token.expires_at} /> : 'never'}</td>
      <td>
        <Actions actions={[revoke]} label={`Actions for token ${token.id}`} />
      </td>
    </tr>
  )
}

export function Tokens() {
  const { data, error } = useLive('tokens', api.tokens, 5)
  const [made, setMade] = useState(null)
  return (
    <Section name="tokens" title="Tokens">
      <Fault error={error} />
      {!data && !error && <Loading />}
      {data?.length === 0 && <Empty>No tokens.</Empty>}
      {data?.length > 0 && (
        <table>
          <thead>
            <tr>
              {['Token', 'For', 'Kind', 'User', 'Role', 'Made', 'Ends', ''].map((word) => (
                <th key={word} scope="col" class={PARTS.includes(word) ? 'part' : undefined}>{word || <span class="unseen">Actions</span>}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data.map((token) => (
              <Token key={token.id} token={token} />
            ))}
          </tbody>
        </table>
      )}
      {made && (
        <p class="made" role="status">
          The new token, shown this once: <code>{made.token}</code>{' '}
          <button type="button" onClick={() => setMade(null)}>
            I have it
          </button>
        </p>
      )}
      <NewToken onMade={setMade} />
    </Section>
  )
}
