// Settings: how the page looks here, and the tokens that let programs and people in.
import { useState } from 'preact/hooks'
import * as api from '../api.js'
import { Actions, Ago, Empty, Fault, Loading, Section } from '../parts.jsx'
import { refresh, useLive } from '../poll.js'
import { density, setDensity, setTheme, theme } from '../theme.js'

function Choice({ name, value, words, onChoose }) {
  return (
    <fieldset class="choice">
      <legend>{name}</legend>
      {Object.entries(words).map(([key, word]) => (
        <label key={key}>
          <input type="radio" name={name} checked={value === key} onChange={() => onChoose(key)} /> {word}
        </label>
      ))}
    </fieldset>
  )
}

function Look() {
  return (
    <Section name="look" title="Look">
      <Choice name="Theme" value={theme.value} words={{ system: 'as the system', light: 'light', dark: 'dark' }} onChoose={setTheme} />
      <Choice name="Density" value={density.value} words={{ dense: 'dense', roomy: 'roomy' }} onChoose={setDensity} />
    </Section>
  )
}

function NewToken({ onMade }) {
  const [trouble, setTrouble] = useState('')
  const [kind, setKind] = useState('user')
  const make = async (event) => {
    event.preventDefault()
    const { user, role, days } = event.currentTarget.elements
    const given = { kind, ...(kind === 'user' ? { user: user.value.trim(), role: role.value } : {}), ...(days.value ? { expires_s: Number(days.value) * 86400 } : {}) }
    try {
      onMade(await api.createToken(given))
      setTrouble('')
      await refresh()
    } catch (error) {
      if (error.status === undefined) throw error
      setTrouble(error.message)
    }
  }
  return (
    <form class="limit-form" onSubmit={make}>
      <select aria-label="Kind of token" value={kind} onChange={(event) => setKind(event.target.value)}>
        <option value="user">for a user</option>
        <option value="enrol">for one worker</option>
        <option value="site">for all workers</option>
      </select>
      {kind === 'user' && (
        <>
          <input name="user" required placeholder="User" aria-label="User of the token" />
          <select name="role" aria-label="Role">
            <option>user</option>
            <option>guest</option>
            <option>wrangler</option>
            <option>budget</option>
            <option>admin</option>
          </select>
        </>
      )}
      <label>
        for <input name="days" size={4} inputMode="numeric" pattern="[0-9]*" placeholder="any" aria-label="Days that it is valid" /> days
      </label>
      <button type="submit">New token</button>
      {trouble && (
        <span class="trouble" role="alert">
          {trouble}
        </span>
      )}
    </form>
  )
}

function Token({ token }) {
  const revoke = { name: 'revoke', label: 'Revoke', confirm: `Revoke token ${token.id}? It is refused from then on.`, run: () => api.deleteToken(token.id) }
  return (
    <tr>
      <th scope="row">{token.id}</th>
      <td>{token.kind}</td>
      <td>{token.user}</td>
      <td>{token.role}</td>
      <td>
        <Ago at={token.created_at} />
      </td>
      <td>{token.expires_at ? <Ago at={token.expires_at} /> : 'never'}</td>
      <td>
        <Actions actions={[revoke]} label={`Actions for token ${token.id}`} />
      </td>
    </tr>
  )
}

function Tokens() {
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
              {['Token', 'Kind', 'User', 'Role', 'Made', 'Ends', ''].map((word) => (
                <th key={word} scope="col">{word || <span class="unseen">Actions</span>}</th>
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

export function Settings({ server }) {
  return (
    <>
      <Look />
      {server.role === 'admin' && <Tokens />}
      <Section name="about" title="Server">
        <p class="hint">
          {server.farm}, Coalition {server.version}, {server.auth === 'none' ? 'without log-in, for this machine only' : `log-in by ${server.auth}`}. {server.user && `You are ${server.user}, ${server.role}. `}
          <a href="/api/docs">The API</a>
        </p>
      </Section>
    </>
  )
}
